#pragma once

#include "model/decoder.h"

namespace pocketvlm {

/// The sequences that get one more token, for all layers of a step.
struct DecodeStep {
  std::vector<int64_t> sequences;
  // Their places and what has ended, on the device; made by the first layer that attends with operators.
  torch::Tensor index, newest, prefix_ended, tail_ended;
  int64_t longest = 0;  // tail, the new token included
};

/// Writes the newest key and value of these sequences behind their tails in `layer` and attends over prefix and tail. On the CPU the
/// bits of a sequence do not depend on the others.
///   q     [sequences, heads, head_dim], k and v [sequences, kv_heads, head_dim]
///   returns [sequences, heads * head_dim]
torch::Tensor decode_attention(const torch::Tensor& q,
                               const torch::Tensor& k,
                               const torch::Tensor& v,
                               DecodeStep& step,
                               const KvCache& cache,
                               KvCache::Layer& layer);

}  // namespace pocketvlm
