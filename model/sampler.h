#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>

#include "base/random.h"
#include "model/generation.h"

namespace pocketvlm {

struct SampledToken {
  std::int32_t id;
  float log_prob;  // under the logits as they are: no penalty, temperature or cut
};

/// Draws the next token; filters in the order of the transformers library: repetition penalty, temperature, top-k, top-p.
///   logits  [vocab] float32
///   seen    ids of the text so far, which the repetition penalty lowers: positive logits are divided by it, negative ones
///           multiplied
///   forbidden  ids that may not be drawn
/// Greedy (temperature 0) takes the largest, the smallest id among equals, and draws nothing from `random`.
SampledToken sample_token(std::span<const float> logits,
                          const std::unordered_set<std::int32_t>& seen,
                          const SamplingConfig& sampling,
                          Random& random,
                          std::span<const std::int32_t> forbidden = {});

}  // namespace pocketvlm
