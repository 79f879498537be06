#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// Which tokens of two answers replace each other: 1 where they do. Both are aligned as Python's
/// difflib.SequenceMatcher(None, a, b, autojunk=False) aligns them (longest common block first, then to its left and
/// right); common blocks of fewer than three tokens do not count, and what one answer merely has more or less is no
/// replacement (RLHF-V's rule, rlaifv.md section 1.6).
struct ChangedTokens {
  std::vector<bool> a, b;
};
ChangedTokens changed_tokens(std::span<const std::int32_t> a, std::span<const std::int32_t> b);

/// Weights of the answers' tokens in their log-probs: `changed_token_weight` on changed tokens (DDPO), times
/// `length_tail_weight` beyond the shorter answer's length (LD-DPO). 1 everywhere when both are off.
struct TokenWeights {
  std::vector<float> chosen, rejected;
};
TokenWeights token_weights(std::span<const std::int32_t> chosen,
                           std::span<const std::int32_t> rejected,
                           const PreferenceConfig& config);

}  // namespace pocketvlm
