#include <cstdio>
#include <exception>

#include "apps/command_line.h"
#include "apps/engine_commands.h"
#include "base/error.h"
#include "base/log.h"

int main(int argc, char** argv) {
  pocketvlm::set_up_logging();
  try {
    pocketvlm::run_engine_command(pocketvlm::parse_command_line(argc, argv));
    return 0;
  } catch (const pocketvlm::CheckFailed& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm: %s\n", error.what());
    return 1;
  }
}
