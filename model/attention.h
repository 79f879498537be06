#pragma once

#include <torch/types.h>

#include <vector>

#include "model/fused_ops.h"

namespace pocketvlm {

/// Attention that never crosses a segment: kernels of our own on the CPU, FlashAttention for bfloat16 on a GPU
/// (flash_attention.h), elsewhere one call of LibTorch's attention for segments of one shape that follow each other. q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], tokens
/// = sum of lengths; returns [tokens, heads * head_dim].
torch::Tensor segment_attention(const torch::Tensor& q,
                                const torch::Tensor& k,
                                const torch::Tensor& v,
                                const std::vector<int64_t>& lengths,
                                bool causal);

/// The same over one tensor that holds queries, keys and values side by side, [tokens, heads + 2 * kv_heads, head_dim]; with a
/// rotary table (may be null), queries and keys are turned first. Neither the turned heads nor three separate gradients are
/// ever written on the CPU.
///   unread  of each segment, leading tokens whose results nobody reads (and which must have no gradient): causal attention
///           may leave them undefined. Empty: all are read.
torch::Tensor packed_attention(const torch::Tensor& qkv,
                               int64_t heads,
                               const RotaryTable* rotary,
                               const std::vector<int64_t>& lengths,
                               bool causal,
                               const std::vector<int64_t>& unread = {});

/// Queries of segment i see the keys of segment i only: q [sum of q_lengths, heads, head_dim], k and v [sum of k_lengths,
/// heads, head_dim]; returns [sum of q_lengths, heads * head_dim].
torch::Tensor cross_attention(const torch::Tensor& q,
                              const torch::Tensor& k,
                              const torch::Tensor& v,
                              const std::vector<int64_t>& q_lengths,
                              const std::vector<int64_t>& k_lengths);

}  // namespace pocketvlm
