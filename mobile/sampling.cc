#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "base/error.h"
#include "base/random.h"
#include "mobile/session.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kSamplingStream =
    0x70686F6E65;  // keeps these draws apart from others of the same seed

struct Candidate {
  float score;
  std::int32_t id;
};

bool better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

void penalise_repetition(std::span<const std::int32_t> history,
                         float penalty,
                         std::vector<Candidate>& candidates) {
  const std::unordered_set<std::int32_t> seen(history.begin(), history.end());
  for (const std::int32_t id : seen) {
    if (id < 0 || static_cast<std::size_t>(id) >= candidates.size()) continue;
    float& score = candidates[static_cast<std::size_t>(id)].score;
    score = score > 0.0F ? score / penalty : score * penalty;
  }
}

// Best first; then top-k, top-p and min-p cut the tail. The best token always stays.
std::vector<double> cut_tail(std::vector<Candidate>& candidates, const MobileSampling& sampling) {
  const auto top_k = static_cast<std::size_t>(sampling.top_k);
  if (top_k > 0 && top_k < candidates.size()) {
    std::nth_element(
        candidates.begin(), candidates.begin() + sampling.top_k, candidates.end(), better);
    candidates.resize(top_k);
  }
  std::sort(candidates.begin(), candidates.end(), better);
  std::vector<double> weights;
  double total = 0.0;
  for (const Candidate& candidate : candidates) {
    weights.push_back(std::exp(static_cast<double>(candidate.score - candidates.front().score)));
    total += weights.back();
  }
  double before = 0.0;
  std::size_t kept = 0;
  while (kept < weights.size() && (kept == 0 || (before < sampling.top_p * total &&
                                                 weights[kept] >= sampling.min_p * weights[0]))) {
    before += weights[kept++];
  }
  weights.resize(kept);
  return weights;
}

}  // namespace

void check_sampling(const MobileSampling& sampling) {
  PV_CHECK(std::isfinite(sampling.temperature) && sampling.temperature >= 0.0,
           "temperature is {}; it must not be negative",
           sampling.temperature);
  PV_CHECK(sampling.top_p >= 0.0 && sampling.top_p <= 1.0,
           "top_p is {}; it lies in 0 .. 1",
           sampling.top_p);
  PV_CHECK(sampling.top_k >= 0, "top_k is {}; it must not be negative", sampling.top_k);
  PV_CHECK(sampling.min_p >= 0.0 && sampling.min_p <= 1.0,
           "min_p is {}; it lies in 0 .. 1",
           sampling.min_p);
  PV_CHECK(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0.0,
           "repetition_penalty is {}; it must be positive",
           sampling.repetition_penalty);
}

std::int32_t sample_token(std::span<const float> logits,
                          std::span<const std::int32_t> history,
                          const MobileSampling& sampling,
                          std::uint64_t step) {
  check_sampling(sampling);
  if (sampling.temperature == 0.0 && sampling.repetition_penalty == 1.0) {
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) -
                                     logits.begin());
  }
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    candidates.push_back({logits[i], static_cast<std::int32_t>(i)});
  if (sampling.repetition_penalty != 1.0) {
    penalise_repetition(history, static_cast<float>(sampling.repetition_penalty), candidates);
  }
  if (sampling.temperature == 0.0) {
    return std::min_element(candidates.begin(), candidates.end(), better)->id;
  }
  for (Candidate& candidate : candidates)
    candidate.score /= static_cast<float>(sampling.temperature);
  const std::vector<double> weights = cut_tail(candidates, sampling);
  double total = 0.0;
  for (const double weight : weights) total += weight;
  double left = Random({kSamplingStream, sampling.seed, step}).uniform() * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0.0) return candidates[i].id;
  }
  return candidates[weights.size() - 1].id;
}

TokenLogProbs token_log_probs(std::span<const float> logits, std::int32_t chosen, std::int64_t count) {
  std::vector<Candidate> candidates;
  for (std::size_t id = 0; id < logits.size(); ++id)
    candidates.push_back({logits[id], static_cast<std::int32_t>(id)});
  const auto top = candidates.begin() + std::min<std::ptrdiff_t>(count, std::ssize(candidates));
  std::partial_sort(candidates.begin(), top, candidates.end(), better);
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const double normaliser = largest + std::log(sum);
  TokenLogProbs result;
  result.chosen = {chosen, logits[static_cast<std::size_t>(chosen)] - normaliser};
  for (auto candidate = candidates.begin(); candidate != top; ++candidate)
    result.top.push_back({candidate->id, candidate->score - normaliser});
  return result;
}

}  // namespace pocketvlm
