#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/preference_pack.h"
#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// Summed log-probs of a pair's answers under the reference (0 where it is live); or why the pair cannot be trained on.
struct Reference {
  float chosen = 0, rejected = 0;
  std::int64_t chosen_tokens = 0, rejected_tokens = 0;
  std::string dropped;  // reason; empty when the pair can be trained on
};

/// Where references came from.
struct ReferenceCounts {
  std::int64_t from_cache = 0, computed = 0;  // pairs; those that are dropped are neither
};

/// References of all pairs, in their order, by the forward that training uses. They are kept in
/// `log`, a line a pair:
/// {"key", "chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"} or {"key",
/// "dropped"}; the key is a hash of the reference's weights, dtype and preprocessing, the texts and
/// the picture. Lines that are there are not computed again, nor are those that the folder `cache` of another training holds under
/// the same key (empty: none). With a live reference lines have no log-probs. A pair that cannot be encoded, or is
/// too long for the model, is dropped with its reason, never cut. Ranks compute a stretch of `batch_pairs` pairs each.
/// Throws Error when `cache` holds no reference.jsonl, or a line that cannot be read.
std::vector<Reference> reference_log_probs(const PreferenceConfig& config,
                                           LoadedModel& reference,
                                           const std::vector<PreferencePair>& pairs,
                                           const PictureReader& picture,
                                           torch::Device device,
                                           JsonlLog& log,
                                           const RoundObserver& observer = {},
                                           const WorkingRanks& ranks = {},
                                           const std::string& cache = "",
                                           ReferenceCounts* counts = nullptr);

}  // namespace pocketvlm
