#include "model/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "model/kernels/kernels.h"

namespace pocketvlm {
namespace {

struct Candidate {
  float score;
  std::int32_t id;
};

bool better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

/// Weights e^(score - largest), in the order of the ids. Reused for every row: fresh memory of this size costs page faults.
struct Row {
  std::vector<float> scores;
  std::vector<float> weights;
  std::vector<std::uint16_t> buckets;
  float largest = 0.0F;
  double total = 0.0;
};
thread_local Row row;

double log_sum_exp(std::span<const float> logits) {
  float largest = 0.0F;
  double total = 0.0;
  kernels::table().exp_row({static_cast<int64_t>(logits.size()), logits.data(), nullptr, &largest, &total});
  return largest + std::log(total);
}

void weigh_scores() {
  row.weights.resize(row.scores.size());
  kernels::table().exp_row(
      {static_cast<int64_t>(row.scores.size()), row.scores.data(), row.weights.data(), &row.largest, &row.total});
  PV_CHECK(row.total > 0.0, "sampling: every logit is minus infinity; look at the weights that gave them");
}

/// The first of `weights` (summed one by one) beyond `place`, or the last.
template <typename Weights>
std::size_t find_place(const Weights& weights, std::size_t count, double place) {
  double before = 0.0;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    before += static_cast<double>(weights(i));
    if (before > place) return i;
  }
  return count - 1;
}

/// Candidates by falling score in buckets of equal width in log-probability. Sorting all of a vocabulary for every token
/// costs more than a small model's forward; here only the bucket where the nucleus ends and the one drawn from are sorted.
class Buckets {
 public:
  Buckets() {
    row.buckets.resize(row.scores.size());
    for (std::size_t i = 0; i < row.scores.size(); ++i) {
      // The order of arguments sends a NaN to the last bucket, with everything too unlikely to be told apart.
      const float place = std::min(kLast, (row.largest - row.scores[i]) * kPerNat);
      const auto bucket = static_cast<std::uint16_t>(place);
      row.buckets[i] = bucket;
      mass_[bucket] += static_cast<double>(row.weights[i]);
    }
  }

  /// A token of the nucleus: one stays while those before it hold less than top_p; the best always stays.
  std::int32_t draw(double top_p, Random& random) {
    double total = 0.0;
    for (const double mass : mass_) total += mass;
    const double limit = top_p * total;
    std::size_t end_bucket = 0;
    double kept = 0.0;
    while (end_bucket + 1 < mass_.size() && kept + mass_[end_bucket] < limit) kept += mass_[end_bucket++];
    const std::vector<Candidate> last = sorted(end_bucket);
    std::size_t kept_of_last = 0;
    while (kept_of_last < last.size() && (kept_of_last == 0 || kept < limit)) kept += weight(last[kept_of_last++]);

    double place = random.uniform() * kept;
    for (std::size_t bucket = 0; bucket < end_bucket; ++bucket) {
      if (mass_[bucket] > place) return pick(sorted(bucket), place);
      place -= mass_[bucket];
    }
    return pick({last.begin(), last.begin() + static_cast<std::ptrdiff_t>(kept_of_last)}, place);
  }

 private:
  static constexpr float kPerNat = 64.0F;
  static constexpr std::size_t kBuckets = 2048;  // the last one begins 32 nats below the best: e^-32 of its weight
  static constexpr float kLast = kBuckets - 1;

  static double weight(const Candidate& c) { return row.weights[static_cast<std::size_t>(c.id)]; }

  static std::vector<Candidate> sorted(std::size_t bucket) {
    std::vector<Candidate> members;
    for (std::size_t i = 0; i < row.buckets.size(); ++i) {
      if (row.buckets[i] == bucket) members.push_back({row.scores[i], static_cast<std::int32_t>(i)});
    }
    std::sort(members.begin(), members.end(), better);
    return members;
  }

  static std::int32_t pick(const std::vector<Candidate>& members, double place) {
    return members[find_place([&](std::size_t i) { return weight(members[i]); }, members.size(), place)].id;
  }

  std::array<double, kBuckets> mass_{};
};

/// The `top_k` best candidates, cut further by top_p.
std::int32_t draw_from_best(const SamplingConfig& sampling, Random& random) {
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < row.scores.size(); ++i) {
    candidates.push_back({row.scores[i], static_cast<std::int32_t>(i)});
  }
  std::nth_element(candidates.begin(), candidates.begin() + sampling.top_k - 1, candidates.end(), better);
  candidates.resize(static_cast<std::size_t>(sampling.top_k));
  std::sort(candidates.begin(), candidates.end(), better);
  const auto weight = [&](std::size_t i) {
    return static_cast<double>(row.weights[static_cast<std::size_t>(candidates[i].id)]);
  };
  double total = 0.0;
  for (std::size_t i = 0; i < candidates.size(); ++i) total += weight(i);
  std::size_t kept = 0;
  double held = 0.0;
  while (kept < candidates.size() && (kept == 0 || held < sampling.top_p * total)) held += weight(kept++);
  return candidates[find_place(weight, kept, random.uniform() * held)].id;
}

}  // namespace

SampledToken sample_token(std::span<const float> logits,
                          const std::unordered_set<std::int32_t>& seen,
                          const SamplingConfig& sampling,
                          Random& random,
                          std::span<const std::int32_t> forbidden) {
  row.scores.assign(logits.begin(), logits.end());
  if (sampling.repetition_penalty != 1.0) {
    const auto penalty = static_cast<float>(sampling.repetition_penalty);
    for (const std::int32_t id : seen) {
      if (id < 0 || static_cast<std::size_t>(id) >= row.scores.size()) continue;
      float& score = row.scores[static_cast<std::size_t>(id)];
      score = score > 0.0F ? score / penalty : score * penalty;
    }
  }
  for (const std::int32_t id : forbidden) {
    if (id >= 0 && static_cast<std::size_t>(id) < row.scores.size()) {
      row.scores[static_cast<std::size_t>(id)] = -std::numeric_limits<float>::infinity();
    }
  }
  const auto with_log_prob = [&](std::int32_t id) {
    return SampledToken{id, static_cast<float>(logits[static_cast<std::size_t>(id)] - log_sum_exp(logits))};
  };
  if (sampling.temperature == 0.0) {
    const auto best = std::max_element(row.scores.begin(), row.scores.end()) - row.scores.begin();
    return with_log_prob(static_cast<std::int32_t>(best));
  }
  for (float& score : row.scores) score = static_cast<float>(score / sampling.temperature);
  weigh_scores();
  if (sampling.top_k > 0 && sampling.top_k < static_cast<int64_t>(row.scores.size())) {
    return with_log_prob(draw_from_best(sampling, random));
  }
  if (sampling.top_p < 1.0) return with_log_prob(Buckets().draw(sampling.top_p, random));
  const std::size_t drawn =
      find_place([](std::size_t i) { return row.weights[i]; }, row.weights.size(), random.uniform() * row.total);
  return with_log_prob(static_cast<std::int32_t>(drawn));
}

}  // namespace pocketvlm
