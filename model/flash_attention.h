#pragma once

#include <torch/types.h>

#include <tuple>
#include <vector>

#include "model/fused_ops.h"

namespace pocketvlm {

/// LibTorch's two operators of FlashAttention for packed segments of different lengths. A test without a GPU puts plain ones in their
/// place.
///   q [q_tokens, heads, head_dim], k and v [k_tokens, kv_heads, head_dim], parts of wider tensors perhaps, last dimension dense
///   starts  [segments + 1] int32 on the same device, where each segment begins and the last one ends
///   returns (out [q_tokens, heads, head_dim], the logarithms of the sums of softmax, two random states), or the gradients of
///           q, k and v
struct FlashOperators {
  using Outputs = std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor>;
  using Gradients = std::tuple<torch::Tensor, torch::Tensor, torch::Tensor>;
  struct Segments {
    torch::Tensor q_starts, k_starts;
    int64_t longest_q, longest_k;
    bool causal;  // lengths of queries and keys are the same then
  };
  Outputs (*forward)(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, const Segments& segments);
  Gradients (*backward)(const torch::Tensor& grad_out,
                        const torch::Tensor& q,
                        const torch::Tensor& k,
                        const torch::Tensor& v,
                        const Outputs& outputs,
                        const Segments& segments);
};
const FlashOperators& flash_operators();

/// Whether FlashAttention can take heads like these: on a GPU, bfloat16, head_dim a multiple of 8 and 256 at most.
bool flash_takes(const torch::Tensor& heads);

/// packed_attention and cross_attention (model/attention.h) through these operators, whatever the number of segments in one call;
/// heads of one key head follow each other. A rotary table, when given, turns queries and keys on the way in and their
/// gradients on the way out.
torch::Tensor flash_packed_attention(const torch::Tensor& qkv,
                                     int64_t heads,
                                     const RotaryTable* rotary,
                                     const std::vector<int64_t>& lengths,
                                     bool causal,
                                     const FlashOperators& operators = flash_operators());
torch::Tensor flash_cross_attention(const torch::Tensor& q,
                                    const torch::Tensor& k,
                                    const torch::Tensor& v,
                                    const std::vector<int64_t>& q_lengths,
                                    const std::vector<int64_t>& k_lengths,
                                    bool causal,
                                    const FlashOperators& operators = flash_operators());

}  // namespace pocketvlm
