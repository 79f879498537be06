#pragma once

#include "apps/command_line.h"
#include "trainer/distributed/communicator.h"

namespace pocketvlm {

/// Runs a command that needs LibTorch. `train`, `eval` and those of `rlaif` that compute use all ranks of the job; for the
/// others a job of several is an Error.
void run_engine_command(const CommandLine& line, Communicator& ranks);

}  // namespace pocketvlm
