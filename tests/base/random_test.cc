#include "base/random.h"

#include <gtest/gtest.h>

#include <set>

namespace pocketvlm {
namespace {

TEST(Random, SameKeysGiveTheSameNumbersOnEveryMachine) {
  Random random({1, 2, 3});
  const std::uint64_t first = random.next();
  EXPECT_EQ(first, Random({1, 2, 3}).next());
  EXPECT_NE(first, Random({1, 3, 2}).next());
  EXPECT_NE(first, Random({1, 2}).next());
}

TEST(Random, BelowIsUniform) {
  Random random({7});
  std::vector<int> counts(10);
  for (int i = 0; i < 100000; ++i) ++counts[static_cast<std::size_t>(random.below(10))];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
}

TEST(Random, NormalHasTheRightMoments) {
  Random random({8});
  double sum = 0, squares = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 100000, 0.0, 0.02);
  EXPECT_NEAR(squares / 100000, 1.0, 0.02);
}

class Permutation : public testing::TestWithParam<std::int64_t> {};

TEST_P(Permutation, HitsEveryPlaceOnce) {
  std::set<std::int64_t> seen;
  for (std::int64_t i = 0; i < GetParam(); ++i) {
    const std::int64_t place = permuted_index(i, GetParam(), 42);
    EXPECT_GE(place, 0);
    EXPECT_LT(place, GetParam());
    seen.insert(place);
  }
  EXPECT_EQ(static_cast<std::int64_t>(seen.size()), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Sizes, Permutation, testing::Values(1, 2, 3, 5, 16, 17, 1000, 4097));

TEST(Permutation, DependsOnTheSeed) {
  int equal = 0;
  for (std::int64_t i = 0; i < 1000; ++i) equal += permuted_index(i, 1000, 1) == permuted_index(i, 1000, 2);
  EXPECT_LT(equal, 20);
}

}  // namespace
}  // namespace pocketvlm
