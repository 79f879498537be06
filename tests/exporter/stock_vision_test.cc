#include "exporter/stock_vision.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"
#include "data/preprocess/position_buckets.h"

namespace pocketvlm {
namespace {

std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

/// libmtmd's rule for patch i of n.
std::int64_t stock_row(std::int64_t i, std::int64_t n) { return 70 * i / n; }

TEST(StockPositions, EveryPatchOfANominalSliceGetsItsOwnRow) {
  for (const auto& [side, nominal] : {std::pair{16, 8}, std::pair{27, 32}, std::pair{32, 32}, std::pair{8, 4}}) {
    std::vector<float> table(static_cast<std::size_t>(side * side));
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i);
    const std::vector<float> stock = stock_position_table(table, side, 1, nominal);
    const std::vector<std::int64_t> own = position_buckets(nominal, side);
    for (std::int64_t r = 0; r < nominal; ++r) {
      for (std::int64_t c = 0; c < nominal; ++c) {
        const float wanted = table[static_cast<std::size_t>(own[static_cast<std::size_t>(r)] * side + own[static_cast<std::size_t>(c)])];
        EXPECT_EQ(stock[static_cast<std::size_t>(stock_row(r, nominal) * 70 + stock_row(c, nominal))], wanted) << side << " " << r << " " << c;
      }
    }
  }
}

TEST(StockPositions, OtherSlicesGetRowsThatAreAtMostOneAway) {
  constexpr std::int64_t kSide = 16;
  std::vector<float> table(kSide * kSide);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i / kSide);
  const std::vector<float> stock = stock_position_table(table, kSide, 1, 8);
  for (std::int64_t n = 4; n <= 16; ++n) {
    const std::vector<std::int64_t> own = position_buckets(n, kSide);
    for (std::int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(stock[static_cast<std::size_t>(stock_row(i, n) * 70)], static_cast<float>(own[static_cast<std::size_t>(i)]), 1.0F) << n << " " << i;
    }
  }
}

TEST(StockPositions, ATableOfAnotherSizeIsAnError) { EXPECT_THROW(stock_position_table(std::vector<float>(10), 4, 1, 4), Error); }

/// What the attention of the resampler sees of one query: weight (norm(query) + added) + bias.
std::vector<double> seen(const StockQueries& queries, std::size_t q, const std::vector<float>& positions, double eps) {
  const std::size_t hidden = queries.bias.size();
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < hidden; ++i) mean += queries.query[q * hidden + i] / static_cast<double>(hidden);
  for (std::size_t i = 0; i < hidden; ++i) square += std::pow(queries.query[q * hidden + i] - mean, 2) / static_cast<double>(hidden);
  std::vector<double> out(hidden);
  for (std::size_t o = 0; o < hidden; ++o) {
    out[o] = queries.bias[o];
    for (std::size_t i = 0; i < hidden; ++i) {
      const double x = (queries.query[q * hidden + i] - mean) / std::sqrt(square + eps) * queries.norm_weight[i] + queries.norm_bias[i];
      out[o] += queries.weight[o * hidden + i] * (x + (positions.empty() ? 0.0 : positions[q * hidden + i]));
    }
  }
  return out;
}

TEST(StockQueries, TheAttentionSeesTheSameWithoutPositions) {
  constexpr std::size_t kHidden = 32, kQueries = 9;
  constexpr double kEps = 1e-6;
  const StockQueries own{random_values(kQueries * kHidden, 1), random_values(kHidden, 2), random_values(kHidden, 3),
                         random_values(kHidden * kHidden, 4), random_values(kHidden, 5)};
  const std::vector<float> positions = random_values(kQueries * kHidden, 6);
  const StockQueries stock = stock_queries(own, positions, kEps);
  double shift = 0;
  for (std::size_t q = 0; q < kQueries; ++q) {
    const std::vector<double> wanted = seen(own, q, positions, kEps), without = seen(own, q, {}, kEps), got = seen(stock, q, {}, kEps);
    for (std::size_t i = 0; i < kHidden; ++i) {
      EXPECT_NEAR(got[i], wanted[i], 1e-4) << q << " " << i;
      shift = std::max(shift, std::abs(wanted[i] - without[i]));
    }
  }
  EXPECT_GT(shift, 1.0) << "the positions of this test change nothing";
}

TEST(StockQueries, MoreQueriesThanHalfTheChannelsAreAnError) {
  const StockQueries own{random_values(3 * 4, 1), random_values(4, 2), random_values(4, 3), random_values(16, 4), random_values(4, 5)};
  EXPECT_THROW(stock_queries(own, random_values(12, 6), 1e-6), Error);
}

TEST(LlamaCppDifferences, NameWhatIsNotTheSame) {
  ModelConfig config;  // 2.6
  config.language.hidden = 3584;
  const auto mentions = [&](const std::string& words) {
    for (const std::string& difference : llama_cpp_differences(config)) {
      if (difference.find(words) != std::string::npos) return true;
    }
    return false;
  };
  EXPECT_TRUE(mentions("sliced by another rule"));
  EXPECT_FALSE(mentions("erf"));
  EXPECT_FALSE(mentions("heads"));
  EXPECT_FALSE(mentions("image_id"));
  config.prompt.use_image_id = true;
  config.vision.activation = "gelu_erf";
  config.vision.positions = "interpolated";
  config.projector.num_heads = 14;
  config.image.max_slices = 4;
  for (const char* words : {"image_id", "erf", "heads of 128 channels instead of 256", "32 x 32 patches", "9 slices instead of 4"}) {
    EXPECT_TRUE(mentions(words)) << words;
  }
  config.projector.kind = "ldpv2";
  config.vision.class_token = true;
  EXPECT_TRUE(mentions("class token"));
  EXPECT_TRUE(mentions("24 x 24"));
  EXPECT_FALSE(mentions("sliced"));
}

}  // namespace
}  // namespace pocketvlm
