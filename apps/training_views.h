#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `pocketvlm train STAGE --simulate-ranks N,...`: what each rank would need, send and take, without running anything.
void simulate_ranks(const CommandLine& line);

/// `pocketvlm plot RUN ... --out FILE`: the curves of runs over each other.
void plot_runs(const CommandLine& line);

}  // namespace pocketvlm
