#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace pocketvlm {
namespace {

float log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  float sum = 0.0F;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

struct Candidate {
  float score;
  std::int32_t id;
};

bool better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

/// Candidates that top-k and top-p leave, best first when either is on.
void cut_candidates(std::vector<Candidate>& candidates, const SamplingConfig& sampling) {
  const auto top_k = static_cast<std::size_t>(sampling.top_k);
  if (top_k > 0 && top_k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + sampling.top_k, candidates.end(), better);
    candidates.resize(top_k);
  }
  if (sampling.top_p >= 1.0) return;
  std::sort(candidates.begin(), candidates.end(), better);
  double total = 0.0;
  for (const Candidate& candidate : candidates) total += std::exp(candidate.score - candidates.front().score);
  // A token stays while those before it hold less than top_p; the best always stays.
  double before = 0.0;
  std::size_t kept = 0;
  while (kept < candidates.size() && (kept == 0 || before < sampling.top_p * total)) {
    before += std::exp(candidates[kept].score - candidates.front().score);
    ++kept;
  }
  candidates.resize(kept);
}

}  // namespace

SampledToken sample_token(std::span<const float> logits,
                          const std::unordered_set<std::int32_t>& seen,
                          const SamplingConfig& sampling,
                          Random& random) {
  std::vector<float> scores(logits.begin(), logits.end());
  if (sampling.repetition_penalty != 1.0) {
    const auto penalty = static_cast<float>(sampling.repetition_penalty);
    for (const std::int32_t id : seen) {
      if (id < 0 || static_cast<std::size_t>(id) >= scores.size()) continue;
      float& score = scores[static_cast<std::size_t>(id)];
      score = score > 0.0F ? score / penalty : score * penalty;
    }
  }
  const float normalizer = log_sum_exp(logits);
  if (sampling.temperature == 0.0) {
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    return {static_cast<std::int32_t>(best), logits[static_cast<std::size_t>(best)] - normalizer};
  }
  std::vector<Candidate> candidates(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    candidates[i] = {static_cast<float>(scores[i] / sampling.temperature), static_cast<std::int32_t>(i)};
  }
  cut_candidates(candidates, sampling);
  const float largest = std::max_element(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
                          return a.score < b.score;
                        })->score;
  double total = 0.0;
  std::vector<double> cumulative(candidates.size());
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    total += std::exp(static_cast<double>(candidates[i].score - largest));
    cumulative[i] = total;
  }
  const double place = random.uniform() * total;
  const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), place) - cumulative.begin();
  const std::int32_t id = candidates[std::min(static_cast<std::size_t>(found), candidates.size() - 1)].id;
  return {id, logits[static_cast<std::size_t>(id)] - normalizer};
}

}  // namespace pocketvlm
