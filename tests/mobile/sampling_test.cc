#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"
#include "mobile/session.h"

namespace pocketvlm {
namespace {

/// The whole vocabulary put in order, then cut, then drawn from: what sample_token must give to the bit.
std::int32_t plain_sample(const std::vector<float>& logits, const MobileSampling& sampling, std::uint64_t step) {
  std::vector<float> scores = logits;
  for (float& score : scores) score /= static_cast<float>(sampling.temperature);
  std::vector<std::int32_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto score = [&](std::int32_t id) { return scores[static_cast<std::size_t>(id)]; };
  std::sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) { return score(a) != score(b) ? score(a) > score(b) : a < b; });
  if (sampling.top_k > 0 && sampling.top_k < std::ssize(ids)) ids.resize(static_cast<std::size_t>(sampling.top_k));
  std::vector<double> weights;
  double total = 0;
  for (const std::int32_t id : ids) {
    weights.push_back(std::exp(static_cast<double>(score(id) - score(ids[0]))));
    total += weights.back();
  }
  double before = 0;
  std::size_t kept = 0;
  while (kept < weights.size() && (kept == 0 || (before < sampling.top_p * total && weights[kept] >= sampling.min_p * weights[0]))) {
    before += weights[kept++];
  }
  double sum = 0;
  for (std::size_t i = 0; i < kept; ++i) sum += weights[i];
  double left = Random({0x70686F6E65, sampling.seed, step}).uniform() * sum;
  for (std::size_t i = 0; i < kept; ++i) {
    left -= weights[i];
    if (left < 0) return ids[i];
  }
  return ids[kept - 1];
}

/// Flat and peaked distributions, with many equal logits, over every cut.
TEST(Sampling, OrdersPartOfTheVocabularyAndDrawsTheSame) {
  Random random({8});
  std::int64_t beyond_the_first_part = 0;
  for (const double spread : {0.0, 0.01, 1.0, 3.0, 30.0}) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{7}, std::size_t{256}, std::size_t{257}, std::size_t{5000}}) {
      std::vector<float> logits(size);
      for (float& logit : logits) logit = static_cast<float>(std::round(random.normal() * spread * 8) / 8);
      for (const double top_p : {0.0, 0.1, 0.5, 0.95, 1.0}) {
        for (const double min_p : {0.0, 0.05, 1.0}) {
          for (const std::int64_t top_k : {0, 1, 40, 300, 100000}) {
            MobileSampling sampling;
            sampling.temperature = 0.7;
            sampling.top_p = top_p;
            sampling.min_p = min_p;
            sampling.top_k = top_k;
            for (std::uint64_t step = 0; step < 4; ++step) {
              sampling.seed = random.below(1000);
              const std::int32_t wanted = plain_sample(logits, sampling, step);
              EXPECT_EQ(sample_token(logits, {}, sampling, step), wanted)
                  << spread << " " << size << " " << top_p << " " << min_p << " " << top_k << " " << step;
              if (size == 5000 && spread == 0.0 && wanted >= 1024) ++beyond_the_first_part;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(beyond_the_first_part, 0);  // equal logits: the order is that of the ids
}

/// All mass on one token, which no sum over the others can be told from: decided without an order of the rest.
TEST(Sampling, APeakIsDrawnWhateverTheTail) {
  std::vector<float> logits(100000, -60.0F);
  logits[777] = 40.0F;
  MobileSampling sampling;
  sampling.temperature = 1.0;
  for (std::uint64_t step = 0; step < 20; ++step) {
    EXPECT_EQ(sample_token(logits, {}, sampling, step), 777);
    EXPECT_EQ(plain_sample(logits, sampling, step), 777);
  }
}

}  // namespace
}  // namespace pocketvlm
