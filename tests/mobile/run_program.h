#pragma once

#include <string>

namespace pocketvlm {

struct ProgramResult {
  int status = -1;  // of its exit; 128 + the signal when one ended it
  std::string out;
  std::string err;
};

/// Runs a command line through the shell with `input` as its standard input.
ProgramResult run_shell(const std::string& command_line, const std::string& input = "");

}  // namespace pocketvlm
