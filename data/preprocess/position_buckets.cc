#include "data/preprocess/position_buckets.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

/// torch.arange(start, end, step) in float32 with vectors of eight: whole groups count on from a rounded base, the rest is
/// computed one by one; both in double.
std::vector<float> float_range(double start, double end, double step) {
  constexpr std::size_t kLanes = 8;
  const auto count = static_cast<std::size_t>(std::ceil((end - start) / step));
  std::vector<float> values(count);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto base = static_cast<float>(start + step * static_cast<double>(i));
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      values[i + lane] = static_cast<float>(static_cast<double>(base) + static_cast<double>(lane) * step);
    }
  }
  for (; i < count; ++i) values[i] = static_cast<float>(start + step * static_cast<double>(i));
  return values;
}

}  // namespace

std::vector<std::int64_t> position_buckets(std::int64_t count, std::int64_t side) {
  const double cell = 1.0 / static_cast<double>(side);
  const std::vector<float> boundaries = float_range(cell, 1.0, cell);
  const auto step = static_cast<double>(1.0F / static_cast<float>(count));
  const std::vector<float> coordinates = float_range(0.0, 1.0 - 1e-6, step);
  std::vector<std::int64_t> buckets;
  for (std::int64_t k = 0; k < count; ++k) {
    const float at = coordinates[std::min(static_cast<std::size_t>(k), coordinates.size() - 1)];
    const auto above = std::upper_bound(boundaries.begin(), boundaries.end(), at);
    buckets.push_back(std::min<std::int64_t>(side - 1, above - boundaries.begin()));
  }
  return buckets;
}

}  // namespace pocketvlm
