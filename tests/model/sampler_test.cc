#include "model/sampler.h"

#include <numeric>

#include "base/json.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

TEST(Sampler, DrawsFromTheDistributionsOfTheTransformersLibrary) {
  const Json golden = read_json(TEST_DATA "/model/golden/sampling.json");
  const auto logits = golden["logits"].get<std::vector<float>>();
  const auto seen_ids = golden["seen"].get<std::vector<std::int32_t>>();
  const std::unordered_set<std::int32_t> seen(seen_ids.begin(), seen_ids.end());
  constexpr int kDraws = 20000;
  Random random({5});
  for (const Json& golden_case : golden["cases"]) {
    SCOPED_TRACE(golden_case.dump());
    SamplingConfig sampling;
    sampling.temperature = golden_case["temperature"].get<double>();
    sampling.top_k = golden_case["top_k"].get<int64_t>();
    sampling.top_p = golden_case["top_p"].get<double>();
    sampling.repetition_penalty = golden_case["repetition_penalty"].get<double>();
    std::vector<int> counts(logits.size(), 0);
    for (int i = 0; i < kDraws; ++i) {
      ++counts[static_cast<std::size_t>(sample_token(logits, seen, sampling, random).id)];
    }
    for (std::size_t id = 0; id < logits.size(); ++id) {
      const double p = golden_case["probabilities"][id].get<double>();
      if (p == 0.0) {
        EXPECT_EQ(counts[id], 0) << id;
      } else {
        EXPECT_NEAR(counts[id], p * kDraws, 4.5 * std::sqrt(p * (1 - p) * kDraws) + 1e-6) << id;
      }
    }
  }
}

/// All candidates sorted: what the buckets must give without sorting them.
std::int32_t draw_by_sorting(const std::vector<float>& logits, const SamplingConfig& sampling, Random& random) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<double> weights;
  for (const float logit : logits) weights.push_back(std::exp(static_cast<double>(logit) / sampling.temperature));
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  const double limit = sampling.top_p * std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> cumulative;
  double kept = 0.0;
  for (const std::size_t id : order) {
    if (kept >= limit) break;
    cumulative.push_back(kept += weights[id]);
  }
  const double place = random.uniform() * kept;
  return static_cast<std::int32_t>(
      order[static_cast<std::size_t>(std::upper_bound(cumulative.begin(), cumulative.end(), place) - cumulative.begin())]);
}

TEST(Sampler, TheNucleusOfALargeVocabularyIsThatOfSortingIt) {
  constexpr int kDraws = 300;
  for (const double spread : {0.05, 1.0, 6.0}) {
    Random noise({9});
    std::vector<float> logits(32000);
    for (float& logit : logits) logit = static_cast<float>(spread * noise.normal());
    logits[77] = logits[5];  // equals stand in the order of their ids
    SamplingConfig sampling;
    sampling.temperature = 0.7;
    sampling.top_p = 0.95;
    Random ours({10}), sorted({10});
    int equal = 0;
    for (int i = 0; i < kDraws; ++i) {
      equal += sample_token(logits, {}, sampling, ours).id == draw_by_sorting(logits, sampling, sorted) ? 1 : 0;
    }
    // Weights are float32: a draw within 1e-6 of the border between two tokens may fall on the other side.
    EXPECT_GE(equal, kDraws - 1) << spread;
  }
}

TEST(Sampler, LogitsThatAllowNothingAreAnError) {
  Random random({1});
  SamplingConfig sampling;
  sampling.temperature = 1.0;
  const std::vector<float> nothing(4, -std::numeric_limits<float>::infinity());
  EXPECT_NE(error_of([&] { sample_token(nothing, {}, sampling, random); }).find("minus infinity"), std::string::npos);
}

TEST(Sampler, GreedyTakesTheLargestAndReportsItsPlainLogProbability) {
  const std::vector<float> logits = {1.0F, 3.0F, 3.0F, 2.0F};
  Random random({1});
  SamplingConfig sampling;
  const SampledToken token = sample_token(logits, {}, sampling, random);
  EXPECT_EQ(token.id, 1);
  const double total = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0);
  EXPECT_NEAR(token.log_prob, 3.0 - std::log(total), 1e-6);
  sampling.repetition_penalty = 2.0;
  const SampledToken other = sample_token(logits, {1, 2}, sampling, random);
  EXPECT_EQ(other.id, 3);
  EXPECT_NEAR(other.log_prob, 2.0 - std::log(total), 1e-6) << "the penalty is no part of the model's log-probability";
}

}  // namespace
}  // namespace pocketvlm
