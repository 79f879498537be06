#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `pocketvlm rlaif ...`: the loop, or one of its stages.
void rlaif(const CommandLine& line);

}  // namespace pocketvlm
