#pragma once

#include <torch/types.h>

namespace pocketvlm {

/// The elementwise parts of a transformer as single passes over memory, forward and backward: on small models
/// they cost as much as the matrix products when each is a chain of separate operators. Kernels of our own exist for the CPU and, in
/// builds with POCKETVLM_CUDA, for GPUs (GELU has one for the CPU alone); elsewhere the same formulas run as LibTorch operators.

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension, statistics in float32.
///   x [rows, size] float32 or bfloat16; weight [size] float32; returns [rows, size] of dtype `out`
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps, torch::Dtype out);

/// (x - mean) / sqrt(var + eps) * weight + bias over the last dimension; shapes as rms_norm.
torch::Tensor layer_norm(const torch::Tensor& x,
                         const torch::Tensor& weight,
                         const torch::Tensor& bias,
                         double eps,
                         torch::Dtype out);

/// The residual stream after a branch, and its norm, in one pass.
struct NormedSum {
  torch::Tensor sum;     // x + scale * branch, float32
  torch::Tensor normed;  // of dtype `out`
};
/// x [rows, size] float32; branch [rows, size] of any float dtype; an undefined bias means RMSNorm.
NormedSum add_norm(const torch::Tensor& x,
                   const torch::Tensor& branch,
                   double scale,
                   const torch::Tensor& weight,
                   const torch::Tensor& bias,
                   double eps,
                   torch::Dtype out);

/// x + scale * branch, float32.
torch::Tensor add_branch(const torch::Tensor& x, const torch::Tensor& branch, double scale);

/// Cosine and sine of every (token, frequency) pair.
struct RotaryTable {
  torch::Tensor cosine;  // [tokens, head_dim / 2] float32
  torch::Tensor sine;
};
/// position_ids [tokens] int64; angle = position / scaling * theta^(-2 i / head_dim), in float32.
RotaryTable rotary_table(const torch::Tensor& position_ids, int64_t head_dim, double theta, double scaling);

/// Rotates the first `rotated` heads of x [tokens, heads, head_dim] by position; channels i and i + head_dim / 2
/// form a pair. The other heads (values beside queries and keys) pass through. Same dtype as x.
torch::Tensor rotate_heads(const torch::Tensor& x, const RotaryTable& table, int64_t rotated);

/// The same, or with `inverse` back again, by the kernel and without a graph: every row of `out` is written, which may be a part of
/// a wider tensor as x may. Both float32 or bfloat16 on the CPU, or on a GPU where there are kernels for it.
void turn_heads(const torch::Tensor& x, const RotaryTable& table, int64_t rotated, bool inverse, const torch::Tensor& out);

/// silu(gate) * up of gate_up [tokens, 2 * ffn] (gate first); returns [tokens, ffn] in the same dtype.
torch::Tensor swiglu(const torch::Tensor& gate_up);

/// GELU in its tanh form, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), and CLIP's x sigmoid(1.702 x). Any shape; same dtype.
torch::Tensor gelu_tanh(const torch::Tensor& x);
torch::Tensor quick_gelu(const torch::Tensor& x);

}  // namespace pocketvlm
