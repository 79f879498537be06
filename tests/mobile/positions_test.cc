#include "mobile/positions.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pocketvlm {
namespace {

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
