#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
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

// Draws from the candidates that top-k, top-p and min-p leave, of which the best one always is. The
// sums behind it run from the best candidate down; but only as many candidates are put in order as
// decide the draw, since ordering a whole vocabulary takes longer than decoding a small model's token.
class Draw {
 public:
  // uniform: in [0, 1)
  Draw(std::vector<Candidate>& candidates, const MobileSampling& sampling, double uniform)
      : candidates_(candidates), sampling_(sampling), uniform_(uniform) {}

  std::int32_t id() {
    const auto top_k = static_cast<std::size_t>(sampling_.top_k);
    if (top_k > 0 && top_k < candidates_.size()) {
      std::nth_element(
          candidates_.begin(), candidates_.begin() + sampling_.top_k, candidates_.end(), better);
      candidates_.resize(top_k);
    }
    best_ = std::min_element(candidates_.begin(), candidates_.end(), better)->score;
    double sum = 0.0;
    for (const Candidate& candidate : candidates_) sum += weight_of(candidate);
    // Twice what adding in any two orders can differ by.
    const double margin = 2.0 * static_cast<double>(candidates_.size()) *
                          std::numeric_limits<double>::epsilon() * sum;
    for (std::size_t count = kFirstOrdered;; count *= 4) {
      order(std::min(count, candidates_.size()));
      if (weights_.size() == candidates_.size()) break;
      if (const auto place = decided(sum - margin, sum + margin)) return candidates_[*place].id;
    }
    double total = 0.0;
    for (const double weight : weights_) total += weight;
    const Cut cut = *cut_tail(total, total);
    return candidates_[walk(uniform_ * cut.sum, cut.kept).value_or(cut.kept - 1)].id;
  }

 private:
  static constexpr std::size_t kFirstOrdered = 256;

  struct Cut {
    std::size_t kept;
    double sum;  // of their weights
  };

  double weight_of(const Candidate& candidate) const {
    return std::exp(static_cast<double>(candidate.score - best_));
  }

  // The best `count` candidates, best first, and their weights.
  void order(std::size_t count) {
    const auto done = candidates_.begin() + static_cast<std::ptrdiff_t>(weights_.size());
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
    if (end != candidates_.end()) std::nth_element(done, end, candidates_.end(), better);
    std::sort(done, end, better);
    for (std::size_t i = weights_.size(); i < count; ++i)
      weights_.push_back(weight_of(candidates_[i]));
  }

  // The place that is drawn, where it is the same for every total of all weights in [low, high].
  std::optional<std::size_t> decided(double low, double high) const {
    if (sampling_.top_p == 1.0 && sampling_.min_p == 0.0) {  // nothing is cut
      const auto first = walk(uniform_ * low, weights_.size());
      return first == walk(uniform_ * high, weights_.size()) ? first : std::nullopt;
    }
    const std::optional<Cut> cut = cut_tail(low, high);
    if (!cut || cut->kept == weights_.size()) return std::nullopt;
    return walk(uniform_ * cut->sum, cut->kept).value_or(cut->kept - 1);
  }

  // How many of the ordered candidates top-p and min-p leave; none where that depends on the total.
  std::optional<Cut> cut_tail(double low, double high) const {
    Cut cut{0, 0.0};
    for (; cut.kept < weights_.size(); ++cut.kept) {
      if (cut.kept > 0) {
        const bool wanted = cut.sum < sampling_.top_p * low;
        if (wanted != (cut.sum < sampling_.top_p * high)) return std::nullopt;
        if (!wanted || weights_[cut.kept] < sampling_.min_p * weights_[0]) break;
      }
      cut.sum += weights_[cut.kept];
    }
    return cut;
  }

  // Where the weights of the first `count` have used up `left`.
  std::optional<std::size_t> walk(double left, std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i) {
      left -= weights_[i];
      if (left < 0.0) return i;
    }
    return std::nullopt;
  }

  std::vector<Candidate>& candidates_;
  const MobileSampling& sampling_;
  double uniform_;
  float best_ = 0.0F;
  std::vector<double> weights_;  // of the candidates in order so far
};

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
  const double uniform = Random({kSamplingStream, sampling.seed, step}).uniform();
  return Draw(candidates, sampling, uniform).id();
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
