#include "data/preprocess/position_buckets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace pocketvlm {
namespace {

constexpr std::int64_t kSide = 70;  // of the released tables

/// floor(70 k / n), one lower at these exact ties of the float32 ranges, whatever the width of the vectors.
TEST(PositionBuckets, TiesOfTheReferenceFallOneLower) {
  const std::map<std::int64_t, std::set<std::int64_t>> lower = {
      {25, {5, 10, 15, 20}}, {50, {5, 10, 15, 20, 30, 40}}, {55, {11, 22, 33, 44}}, {49, {7, 14, 35}}};
  for (std::int64_t n = 1; n <= kSide; ++n) {
    if (n == 58) continue;  // its tie depends on the width
    const std::vector<std::int64_t> buckets = position_buckets(n, kSide);
    ASSERT_EQ(buckets.size(), static_cast<std::size_t>(n));
    for (std::int64_t k = 0; k < n; ++k) {
      if (n == 49 && (k == 28 || k == 42)) continue;
      const bool tie = lower.count(n) != 0 && lower.at(n).count(k) != 0;
      EXPECT_EQ(buckets[static_cast<std::size_t>(k)], kSide * k / n - (tie ? 1 : 0)) << n << " " << k;
    }
  }
}

/// What transformers 5 computes: k times the float32 step, in float32, among the same boundaries.
std::vector<std::int64_t> multiplied(std::int64_t n) {
  std::vector<std::int64_t> buckets;
  const float step = 1.0F / static_cast<float>(n);
  for (std::int64_t k = 0; k < n; ++k) {
    const float at = std::min(static_cast<float>(k) * step, 1.0F - 1e-6F);
    std::int64_t bucket = 0;
    // The boundary i / 70 as the reference holds it: torch.arange(1 / 70, 1, 1 / 70), written out.
    for (std::int64_t i = 0; i < kSide - 1; ++i) {
      const double cell = 1.0 / kSide;
      const bool in_group = i < (kSide - 1) / 8 * 8;
      const auto base = static_cast<float>(cell + cell * static_cast<double>(i / 8 * 8));
      const float boundary = in_group ? static_cast<float>(static_cast<double>(base) + static_cast<double>(i % 8) * cell)
                                      : static_cast<float>(cell + cell * static_cast<double>(i));
      bucket += boundary <= at ? 1 : 0;
    }
    buckets.push_back(bucket);
  }
  return buckets;
}

/// Strips of 2.5 have 900 to 1099 patches at full size. The list is what torch 2.11 (arange) and transformers 5.23 (k times step)
/// give on x86.
TEST(PositionBuckets, DiffersFromMultiplyingWhereTorchDoes) {
  const std::set<std::int64_t> known = {49,  58,  77,  86,  98,   900,  905,  917,  920,  926,  940,  945,  950,
                                        954, 959, 966, 968, 975,  978,  980,  986,  994,  995,  1001, 1010, 1022,
                                        1025, 1036, 1046, 1050, 1055, 1057, 1078, 1080, 1085, 1090, 1095, 1096, 1099};
  for (std::int64_t n = 1; n < 1100; ++n) {
    if (n == 100) n = 900;
    EXPECT_EQ(position_buckets(n, kSide) != multiplied(n), known.count(n) != 0) << n;
  }
}

TEST(PositionBuckets, MorePatchesThanTableRowsShareRows) {
  const std::vector<std::int64_t> buckets = position_buckets(238, kSide);
  EXPECT_EQ(buckets.front(), 0);
  EXPECT_EQ(buckets.back(), kSide - 1);
  EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
}

}  // namespace
}  // namespace pocketvlm
