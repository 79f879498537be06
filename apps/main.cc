#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "apps/command_line.h"
#include "apps/light_commands.h"
#include "base/error.h"
#include "base/log.h"

namespace {

/// Replaces this process by `pocketvlm-engine`, which stands beside it and links LibTorch.
[[noreturn]] void become_engine(char** argv) {
  const auto engine = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "pocketvlm-engine";
  ::execv(engine.c_str(), argv);
  pocketvlm::fail("{}: cannot be started: {}; rebuild with ./scripts/build.sh", engine.string(), std::strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  // Pictures are decoded into memory of nearly one size, again and again: keep its pages.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 28);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 28);
  pocketvlm::set_up_logging();
  try {
    const pocketvlm::CommandLine line = pocketvlm::parse_command_line(argc, argv);
    if (pocketvlm::run_light_command(line)) return 0;
    pocketvlm::check_heavy_config(line);
    become_engine(argv);
  } catch (const pocketvlm::CheckFailed& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return 1;
  }
}
