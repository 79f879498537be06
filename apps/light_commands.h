#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// Runs a command that needs no LibTorch. Returns false when `line` names a heavy command.
bool run_light_command(const CommandLine& line);

/// Reads the config that a heavy command will use, so that mistakes are answered before LibTorch is loaded.
void check_heavy_config(const CommandLine& line);

}  // namespace pocketvlm
