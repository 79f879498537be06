#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `pocketvlm export`. Throws CheckFailed when the parity gate refuses.
void export_checkpoint(const CommandLine& line);

}  // namespace pocketvlm
