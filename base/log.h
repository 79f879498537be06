#pragma once

#include <spdlog/spdlog.h>

namespace pocketvlm {

/// Sends log lines to standard error (standard output belongs to --json). Call once in main.
/// With `rank` >= 0 every line starts with it.
void set_up_logging(int rank = -1);

}  // namespace pocketvlm
