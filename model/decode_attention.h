#pragma once

#include "model/decoder.h"

namespace pocketvlm {

/// Writes the newest key and value of every sequence at place `cache.tail` of `layer` and attends over prefix and tail.
///   q     [sequences, heads, head_dim], k and v [sequences, kv_heads, head_dim]
///   returns [sequences, heads * head_dim]
torch::Tensor decode_attention(const torch::Tensor& q,
                               const torch::Tensor& k,
                               const torch::Tensor& v,
                               const KvCache& cache,
                               KvCache::Layer& layer);

}  // namespace pocketvlm
