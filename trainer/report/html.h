#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "trainer/report/chart_axes.h"

namespace pocketvlm {

/// Text that is safe inside HTML and inside attribute values.
std::string escape_html(std::string_view text);

/// A file's bytes as a data: address, so that the page needs no other file.
std::string data_address(const std::string& path, const std::string& media_type);

/// A line chart as inline SVG; axes are chosen from the data. Empty text without points.
std::string line_chart(const std::string& title, const std::vector<Series>& series, const std::string& x_label, int width = 360, int height = 190);

/// Horizontal bars with their values, largest value = full width.
struct Bar {
  std::string label;
  double value;
  std::string text;
  std::string color;
};
std::string bar_chart(const std::vector<Bar>& bars, double full = 0.0);

}  // namespace pocketvlm
