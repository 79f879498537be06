#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <vector>

namespace pocketvlm {

/// While one lives on a thread, modules are built with parameters that have shapes but no memory, for a checkpoint whose tensors
/// are to take their place (load_weights): no weight is drawn, zeroed or held twice.
class PlaceholderWeights {
 public:
  PlaceholderWeights();
  ~PlaceholderWeights();
  PlaceholderWeights(const PlaceholderWeights&) = delete;
  PlaceholderWeights& operator=(const PlaceholderWeights&) = delete;
};

/// What a module registers as a parameter: `value` everywhere, float32, or a placeholder.
torch::Tensor new_parameter(const std::vector<int64_t>& shape, double value = 0.0);
bool is_placeholder(const torch::Tensor& parameter);

/// y = x W^T (+ b). The weight stays float32 (the master copy); the product runs in `compute_dtype`
/// (design: fp32 master weights, bf16 compute), and the result has that dtype.
///   x [rows, in_features] (any float dtype), returns [rows, out_features]
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in_features, int64_t out_features, bool bias);
  torch::Tensor forward(const torch::Tensor& x);

  /// Registers lora_a [rank, in_features] (given) and lora_b [out_features, rank] (zero); the output gains
  /// scale * B (A x). Throws Error when there is an update already.
  void add_lora(const torch::Tensor& a, double scale, double dropout);
  /// Folds the update into the weight and removes it; without one nothing happens.
  void merge_lora();

  torch::Tensor weight;  // [out_features, in_features]
  torch::Tensor bias;    // [out_features] or undefined
  torch::Tensor lora_a;  // [rank, in_features] or undefined
  torch::Tensor lora_b;  // [out_features, rank] or undefined

  /// The low-rank update alone, scale * B (A x) in compute dtype.
  torch::Tensor lora_update(const torch::Tensor& x);

 private:
  double lora_scale_ = 0.0;
  double lora_dropout_ = 0.0;
};
TORCH_MODULE(Linear);

/// The outputs of several Linears over one input, side by side [rows, sum of out_features]: one product.
torch::Tensor linear_group(const torch::Tensor& x, const std::vector<LinearImpl*>& linears);

class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(int64_t size, double eps);
  torch::Tensor forward(const torch::Tensor& x);  // float32 statistics; result in compute dtype
  double eps() const { return eps_; }
  torch::Tensor weight;
  torch::Tensor bias;

 private:
  double eps_;
};
TORCH_MODULE(LayerNorm);

class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t size, double eps);
  torch::Tensor forward(const torch::Tensor& x);  // float32 statistics; result in compute dtype
  double eps() const { return eps_; }
  torch::Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

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

/// While one lives on a thread, products without a graph keep the copies of weights that they cast or pack for compute dtype:
/// decoding would otherwise do so with every weight for every token. The weights must not change meanwhile; dropping the last
/// guard drops the copies. Hold one around many calls of generate() to share them.
class CachedWeights {
 public:
  CachedWeights();
  ~CachedWeights();
  CachedWeights(const CachedWeights&) = delete;
  CachedWeights& operator=(const CachedWeights&) = delete;
};

/// x W^T (+ bias) in compute dtype; with cached weights in bfloat16 on the CPU by our own product over panels.
///   x [rows, in], weight [out, in], bias [out] or undefined
torch::Tensor product(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias);

/// `weight` in compute dtype: itself, a cached copy (see CachedWeights), or a cast inside the graph.
torch::Tensor compute_weight(const torch::Tensor& weight);

}  // namespace pocketvlm
