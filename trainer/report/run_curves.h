#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/preprocess/image.h"
#include "trainer/report/chart_axes.h"

namespace pocketvlm {

/// The curves of several runs over each other: one chart for each number of each metrics.jsonl that the runs' folders hold (a recipe has one
/// in each stage).
struct RunCurves {
  std::vector<Series> runs;  // names and colours
  std::map<std::string, std::map<std::string, std::vector<Series>>> charts;  // by place in the run, by number

  /// Throws Error when a folder does not exist, when none holds metrics, or when a line is not what this program writes.
  static RunCurves read(const std::vector<std::string>& folders);
  std::string page() const;  // HTML that needs no other file, inline SVG
  Image picture() const;
};

}  // namespace pocketvlm
