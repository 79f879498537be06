#pragma once

#include <string>

namespace pocketvlm {

/// What a program printed and how it ended.
struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
  double seconds = 0;
};

/// Runs a command line through the shell, with standard output and error kept apart.
Outcome run_program(const std::string& command_line);

/// Path of a program of this build.
std::string program(const std::string& name);

}  // namespace pocketvlm
