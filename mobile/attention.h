#pragma once

#include <cstdint>
#include <vector>

#include "mobile/linear.h"

namespace pocketvlm {

/// Full (not causal) attention of several segments, one after the other.
///   q, k, v   [tokens, heads * head_dim]; `lengths` sum to tokens
///   q_lengths lengths of the query segments where they differ from the key segments
///   (cross-attention), else empty out       [query tokens, heads * head_dim]
void mobile_attention(const Compute& compute,
                      const float* q,
                      const float* k,
                      const float* v,
                      const std::vector<std::int64_t>& q_lengths,
                      const std::vector<std::int64_t>& kv_lengths,
                      std::int64_t heads,
                      std::int64_t head_dim,
                      float* out);

}  // namespace pocketvlm
