#include "tests/apps/program.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "base/files.h"

namespace pocketvlm {

Outcome run_program(const std::string& command_line) {
  const std::string base = testing::TempDir() + "/program" + std::to_string(::getpid());
  const auto begin = std::chrono::steady_clock::now();
  const int status = std::system((command_line + " >" + base + ".out 2>" + base + ".err </dev/null").c_str());
  Outcome outcome;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  outcome.out = read_file(base + ".out");
  outcome.err = read_file(base + ".err");
  return outcome;
}

std::string program(const std::string& name) { return BINARY_ROOT "/" + name; }

}  // namespace pocketvlm
