#pragma once

#include <string>
#include <vector>

namespace pocketvlm {

/// A page of its own with the curves of several runs over each other: one chart for each number of each metrics.jsonl that the
/// runs' folders hold (a recipe has one in each stage), inline SVG.
/// Throws Error when a folder does not exist, when none holds metrics, or when a line is not what this program writes.
std::string run_curves(const std::vector<std::string>& folders);

}  // namespace pocketvlm
