#pragma once

#include "apps/command_line.h"
#include "trainer/distributed/communicator.h"

namespace pocketvlm {

/// `pocketvlm rlaif ...`: the loop, or one of its stages.
void rlaif(const CommandLine& line, Communicator& ranks);

}  // namespace pocketvlm
