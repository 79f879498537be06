#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `pocketvlm bench`: how fast one kind of work runs, on random weights and data of the sizes in a shapes file, so that other
/// programs can be timed on the same work. Prints {"task", "median_s", "useful_per_s", "params_m", "peak_rss_mib", "device", ...}, on a GPU with
/// "peak_device_mib".
void bench(const CommandLine& line);

}  // namespace pocketvlm
