#include "mobile/positions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace pocketvlm {
namespace {

// MiniCPM-V 2.5 and 2.6: floor(70 k / n), one lower at these exact ties of the float32 ranges.
TEST(Positions, BucketsFollowTheReferenceWithItsTies) {
  const std::map<std::int64_t, std::set<std::int64_t>> lower = {{25, {5, 10, 15, 20}},
                                                                {50, {5, 10, 15, 20, 30, 40}},
                                                                {55, {11, 22, 33, 44}},
                                                                {49, {7, 14, 35}}};
  for (std::int64_t n = 1; n <= 70; ++n) {
    if (n == 58) continue;  // its tie depends on the reference's vector width
    const std::vector<std::int64_t> buckets = position_buckets(n, 70);
    ASSERT_EQ(buckets.size(), static_cast<std::size_t>(n));
    for (std::int64_t k = 0; k < n; ++k) {
      if (n == 49 && (k == 28 || k == 42)) continue;
      const bool tie = lower.count(n) != 0 && lower.at(n).count(k) != 0;
      EXPECT_EQ(buckets[static_cast<std::size_t>(k)], 70 * k / n - (tie ? 1 : 0)) << n << " " << k;
    }
  }
}

TEST(Positions, MorePatchesThanTableRowsShareBuckets) {
  const std::vector<std::int64_t> buckets = position_buckets(238, 70);
  EXPECT_EQ(buckets.front(), 0);
  EXPECT_EQ(buckets.back(), 69);
  for (std::size_t k = 1; k < buckets.size(); ++k) EXPECT_GE(buckets[k], buckets[k - 1]);
}

TEST(Positions, ResamplingKeepsConstantsAndUnchangedSizes) {
  std::vector<float> table(5 * 5 * 2);
  for (std::size_t i = 0; i < table.size(); ++i)
    table[i] = i % 2 == 0 ? 3.0F : static_cast<float>(i);
  EXPECT_EQ(resample_positions_antialiased(table, 5, 2, 5, 5), table);
  for (const auto& out :
       {resample_positions_antialiased(table, 5, 2, 3, 9), resample_positions(table, 5, 2, 3, 9)}) {
    ASSERT_EQ(out.size(), 3U * 9U * 2U);
    for (std::size_t i = 0; i < out.size(); i += 2) EXPECT_NEAR(out[i], 3.0F, 1e-5);
  }
}

TEST(Positions, SincosPutsTheColumnFirst) {
  const std::vector<float> table = sincos_table(2, 3, 8);
  const float* at = &table[(1 * 3 + 2) * 8];  // row 1, column 2
  EXPECT_FLOAT_EQ(at[0], std::sin(2.0F));
  EXPECT_FLOAT_EQ(at[1], std::sin(0.02F));
  EXPECT_FLOAT_EQ(at[2], std::cos(2.0F));
  EXPECT_FLOAT_EQ(at[4], std::sin(1.0F));
  EXPECT_FLOAT_EQ(at[7], std::cos(0.01F));
}

}  // namespace
}  // namespace pocketvlm
