#include "data/mixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "data/sample.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kEndless = SampleSource::kEndless;

TEST(Mixture, EverySourceGetsItsShareOfEveryStretch) {
  const std::vector<double> weights = {5, 3, 0.01, 0};
  Mixture mixture(weights, {kEndless, kEndless, kEndless, kEndless}, 7);
  std::vector<std::int64_t> drawn(4, 0);
  for (std::int64_t position = 0; position < 200000; ++position) {
    ++drawn[static_cast<std::size_t>(mixture.place(position).source)];
    if (position % 5000 != 4999) continue;
    for (std::size_t s = 0; s < 4; ++s) {
      const double share = weights[s] / 8.01;
      // Within a stretch of 1024 the order is random: three standard deviations.
      const double slack = 2 + 3 * std::sqrt(1024 * share * (1 - share) / 4);
      EXPECT_NEAR(static_cast<double>(drawn[s]), static_cast<double>(position + 1) * share, slack)
          << s << " at " << position;
    }
  }
  EXPECT_EQ(drawn[3], 0);
}

TEST(Mixture, EndlessSourcesAreCountedThroughWithoutGapOrRepeat) {
  Mixture mixture({1, 2}, {kEndless, kEndless}, 3);
  std::vector<std::set<std::int64_t>> seen(2);
  for (std::int64_t position = 0; position < 30000; ++position) {
    const MixturePlace place = mixture.place(position);
    EXPECT_TRUE(seen[static_cast<std::size_t>(place.source)].insert(place.index).second);
  }
  for (const auto& indices : seen)
    EXPECT_EQ(*indices.rbegin(), static_cast<std::int64_t>(indices.size()) - 1);
}

TEST(Mixture, FiniteSourcesAreWalkedOnceAnEpochInAFreshOrder) {
  Mixture mixture({1, 1}, {100, 7}, 3);
  std::vector<std::vector<std::int64_t>> order(2);
  for (std::int64_t position = 0; position < 4000; ++position) {
    const MixturePlace place = mixture.place(position);
    order[static_cast<std::size_t>(place.source)].push_back(place.index);
  }
  for (const auto& [indices, size] :
       {std::pair{order[0], std::size_t{100}}, std::pair{order[1], std::size_t{7}}}) {
    for (std::size_t begin = 0; begin + size <= indices.size(); begin += size) {
      const std::set<std::int64_t> epoch(
          indices.begin() + static_cast<std::ptrdiff_t>(begin),
          indices.begin() + static_cast<std::ptrdiff_t>(begin + size));
      EXPECT_EQ(epoch.size(), size);
    }
  }
  EXPECT_NE(std::vector(order[0].begin(), order[0].begin() + 100),
            std::vector(order[0].begin() + 100, order[0].begin() + 200));
}

TEST(Mixture, APositionMeansTheSameInWhateverOrderItIsAsked) {
  Mixture forward({1, 0.3, 2}, {50, kEndless, 9999}, 11);
  std::map<std::int64_t, std::pair<int, std::int64_t>> places;
  for (std::int64_t position = 0; position < 5000; ++position) {
    const MixturePlace place = forward.place(position);
    places[position] = {place.source, place.index};
  }
  for (std::int64_t step = 0; step < 5000; ++step) {
    Mixture fresh({1, 0.3, 2}, {50, kEndless, 9999}, 11);
    const std::int64_t position = step * 2503 % 5000;
    const MixturePlace place = (step % 100 == 0 ? fresh : forward).place(position);
    EXPECT_EQ(std::pair(place.source, place.index), places[position]);
  }
}

TEST(Mixture, FarPositionsCostNoMoreAndStayInRange) {
  Mixture mixture({1, 1e-9, 3}, {100, kEndless, 12345}, 5);
  for (const std::int64_t position :
       {std::int64_t{1} << 40, (std::int64_t{1} << 45) + 17, std::int64_t{1} << 50}) {
    const MixturePlace place = mixture.place(position);
    EXPECT_LT(place.index, place.source == 0 ? 100 : 12345);
    EXPECT_GE(place.index, 0);
  }
}

TEST(Mixture, TheSeedChangesTheOrderAndTheFingerprintTellsMixturesApart) {
  Mixture a({1, 1}, {100, 100}, 1), b({1, 1}, {100, 100}, 2), c({1, 1}, {100, 101}, 1),
      d({1, 2}, {100, 100}, 1);
  int equal = 0;
  for (std::int64_t position = 0; position < 1000; ++position) {
    const MixturePlace x = a.place(position), y = b.place(position);
    equal += x.source == y.source && x.index == y.index ? 1 : 0;
  }
  EXPECT_LT(equal, 50);
  EXPECT_EQ(a.fingerprint(), Mixture({2, 2}, {100, 100}, 1).fingerprint());
  EXPECT_EQ((std::set{a.fingerprint(), b.fingerprint(), c.fingerprint(), d.fingerprint()}.size()),
            4U);
}

TEST(Mixture, RefusesWhatCannotBeDrawn) {
  EXPECT_NE(test::error_of([] {
              Mixture({0, 0}, {1, 1}, 0);
            }).find("add up to 0"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              Mixture({-1, 2}, {1, 1}, 0);
            }).find("weight -1"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              Mixture({1, 1}, {1, 0}, 0);
            }).find("source 1 holds no samples"),
            std::string::npos);
  EXPECT_NE(test::error_of([] { Mixture({}, {}, 0); }).find("at least one source"),
            std::string::npos);
  EXPECT_NE(test::error_of([] { Mixture({1}, {5}, 0).place(-1); }).find("not a position"),
            std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
