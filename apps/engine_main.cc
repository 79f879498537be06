#include <malloc.h>

#include <cstdio>
#include <exception>

#include "apps/command_line.h"
#include "apps/engine_commands.h"
#include "base/error.h"
#include "base/log.h"

int main(int argc, char** argv) {
  // A training step allocates and frees the same large tensors again and again: keep their pages instead of returning them to
  // the system and faulting them in anew.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  ::mallopt(M_TOP_PAD, 64 << 20);
  try {
    pocketvlm::Communicator ranks;
    pocketvlm::set_up_logging(ranks.size() > 1 ? ranks.rank() : -1);
    const std::string speaker = ranks.size() > 1 ? fmt::format("pocketvlm: rank {}", ranks.rank()) : "pocketvlm";
    try {
      pocketvlm::run_engine_command(pocketvlm::parse_command_line(argc, argv), ranks);
      return 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", speaker.c_str(), error.what());
      const int status = pocketvlm::exit_status(error);
      ranks.abort(status);  // the others would wait for this one
      return status;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return pocketvlm::exit_status(error);
  }
}
