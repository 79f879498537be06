#include "trainer/report/chart_axes.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pocketvlm {
namespace {

double tick_step(double span) {
  const double raw = std::max(span, 1e-12) / 4;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double lead = raw / power;
  return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

}  // namespace

ChartAxes ChartAxes::of(const std::vector<Series>& series) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  ChartAxes axes{kInfinity, -kInfinity, kInfinity, -kInfinity, false};
  for (const Series& line : series) {
    for (const auto& [x, y] : line.points) {
      axes.x0 = std::min(axes.x0, x), axes.x1 = std::max(axes.x1, x), axes.y0 = std::min(axes.y0, y), axes.y1 = std::max(axes.y1, y);
    }
  }
  axes.has_points = axes.x0 <= axes.x1;
  if (!axes.has_points) return {};
  if (axes.y0 > 0 && axes.y0 < axes.y1 * 0.6) axes.y0 = 0;  // show the whole way down where that costs little room
  if (axes.x1 == axes.x0) axes.x1 = axes.x0 + 1;
  if (axes.y1 == axes.y0) axes.y1 = axes.y0 + 1;
  return axes;
}

std::vector<double> ticks(double from, double to) {
  const double step = tick_step(to - from);
  std::vector<double> found;
  for (double at = std::ceil(from / step) * step; at <= to + step * 1e-6; at += step) {
    found.push_back(std::abs(at) < step * 1e-6 ? 0.0 : at);
  }
  return found;
}

}  // namespace pocketvlm
