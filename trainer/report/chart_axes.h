#pragma once

#include <string>
#include <utility>
#include <vector>

namespace pocketvlm {

/// One line of a chart.
struct Series {
  std::string name;
  std::string color;  // "#rrggbb"
  std::vector<std::pair<double, double>> points;
};

/// What the axes of a line chart span, chosen from the data.
struct ChartAxes {
  double x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  bool has_points = false;
  static ChartAxes of(const std::vector<Series>& series);
};

/// Where about four ticks go: at multiples of 1, 2 or 5 times a power of ten.
std::vector<double> ticks(double from, double to);

}  // namespace pocketvlm
