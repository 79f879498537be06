#include "model/sampler.h"

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
