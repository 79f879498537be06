#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// Runs a command that needs LibTorch.
void run_engine_command(const CommandLine& line);

}  // namespace pocketvlm
