#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `inspect model`: parameters, memory and work of a preset or config, without weights.
void inspect_model(const CommandLine& line);

}  // namespace pocketvlm
