#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <vector>

namespace pocketvlm {

/// y = x W^T (+ b). The weight stays float32 (the master copy); the product runs in `compute_dtype`
/// (design: fp32 master weights, bf16 compute), and the result has that dtype.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in_features, int64_t out_features, bool bias);
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight;  // [out_features, in_features]
  torch::Tensor bias;    // [out_features] or undefined
};
TORCH_MODULE(Linear);

class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(int64_t size, double eps);
  torch::Tensor forward(const torch::Tensor& x);  // float32 statistics; result in x's dtype
  torch::Tensor weight;
  torch::Tensor bias;

 private:
  double eps_;
};
TORCH_MODULE(LayerNorm);

class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t size, double eps);
  torch::Tensor forward(const torch::Tensor& x);  // one fused kernel on the CPU, forward and backward
  torch::Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

/// Attention that never crosses a segment. q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], tokens
/// = sum of lengths; returns [tokens, heads * head_dim]. Neighbouring segments of equal length run as one call.
torch::Tensor segment_attention(const torch::Tensor& q,
                                const torch::Tensor& k,
                                const torch::Tensor& v,
                                const std::vector<int64_t>& lengths,
                                bool causal);

/// The dtype matrix products run in, per thread: set by ComputeDtype guards around a forward.
torch::Dtype compute_dtype();
class ComputeDtype {
 public:
  explicit ComputeDtype(torch::Dtype dtype);
  ~ComputeDtype();
  ComputeDtype(const ComputeDtype&) = delete;
  ComputeDtype& operator=(const ComputeDtype&) = delete;

 private:
  torch::Dtype before_;
};

}  // namespace pocketvlm
