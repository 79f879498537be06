#include "model/layers.h"

#include <unordered_map>

#include "base/error.h"
#include "model/fused_ops.h"

namespace pocketvlm {
namespace {

thread_local torch::Dtype current_compute_dtype = torch::kFloat32;
thread_local int placeholder_guards = 0;

/// Casts of this thread, by the identity of what was cast. `sources` keeps the originals alive, so that an
/// identity cannot be reused while its entry exists.
struct CastCache {
  struct Entry {
    std::vector<torch::Tensor> sources;
    torch::Tensor copy;
  };
  int guards = 0;
  std::unordered_map<const void*, Entry> single;
  std::unordered_map<const void*, Entry> grouped;  // by the first of the group
};
thread_local CastCache cast_cache;

bool may_cache(const torch::Tensor& weight) {
  return cast_cache.guards > 0 && !(torch::GradMode::is_enabled() && weight.requires_grad());
}

/// Rows of several weights as one matrix in compute dtype.
torch::Tensor stacked_weight(const std::vector<LinearImpl*>& linears) {
  std::vector<torch::Tensor> weights;
  weights.reserve(linears.size());
  bool cacheable = true;
  for (const LinearImpl* linear : linears) {
    weights.push_back(linear->weight);
    cacheable = cacheable && may_cache(linear->weight);
  }
  if (!cacheable) return torch::cat(weights).to(compute_dtype());
  auto& entry = cast_cache.grouped[weights.front().unsafeGetTensorImpl()];
  if (!entry.copy.defined() || entry.copy.scalar_type() != compute_dtype() ||
      entry.sources.size() != weights.size()) {
    entry = {weights, torch::cat(weights).to(compute_dtype())};
  }
  return entry.copy;
}

/// Weights that are held in compute dtype, which is not the master copy's: a checkpoint's own bytes, perhaps in a mapped file.
bool held_as_used(const std::vector<LinearImpl*>& linears) {
  if (compute_dtype() == torch::kFloat32 || torch::GradMode::is_enabled()) return false;
  for (const LinearImpl* linear : linears) {
    if (linear->weight.scalar_type() != compute_dtype()) return false;
  }
  return true;
}

torch::Tensor to_compute(const torch::Tensor& x) {
  return x.scalar_type() == compute_dtype() ? x : x.to(compute_dtype());
}

}  // namespace

PlaceholderWeights::PlaceholderWeights() { ++placeholder_guards; }

PlaceholderWeights::~PlaceholderWeights() { --placeholder_guards; }

torch::Tensor new_parameter(const std::vector<int64_t>& shape, double value) {
  if (placeholder_guards == 0) return torch::full(shape, value, torch::kFloat32);
  return at::empty_strided(shape, std::vector<int64_t>(shape.size(), 0), torch::kFloat32);
}

bool is_placeholder(const torch::Tensor& parameter) { return parameter.storage().nbytes() < parameter.nbytes(); }

torch::Dtype compute_dtype() { return current_compute_dtype; }

ComputeDtype::ComputeDtype(torch::Dtype dtype) : before_(current_compute_dtype) {
  TORCH_INTERNAL_ASSERT(torch::isFloatingType(dtype));
  current_compute_dtype = dtype;
}

ComputeDtype::~ComputeDtype() { current_compute_dtype = before_; }

CachedWeights::CachedWeights() { ++cast_cache.guards; }

CachedWeights::~CachedWeights() {
  if (--cast_cache.guards == 0) {
    cast_cache.single.clear();
    cast_cache.grouped.clear();
  }
}

torch::Tensor compute_weight(const torch::Tensor& weight) {
  if (weight.scalar_type() == compute_dtype()) return weight;
  if (!may_cache(weight)) return weight.to(compute_dtype());
  auto& entry = cast_cache.single[weight.unsafeGetTensorImpl()];
  if (!entry.copy.defined() || entry.copy.scalar_type() != compute_dtype()) {
    entry = {{weight}, weight.to(compute_dtype())};
  }
  return entry.copy;
}

LinearImpl::LinearImpl(int64_t in_features, int64_t out_features, bool with_bias) {
  weight = register_parameter("weight", new_parameter({out_features, in_features}));
  if (with_bias) bias = register_parameter("bias", new_parameter({out_features}));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const torch::Tensor input = to_compute(x);
  torch::Tensor y =
      at::linear(input, compute_weight(weight), bias.defined() ? compute_weight(bias) : torch::Tensor());
  return lora_a.defined() ? y + lora_update(input) : y;
}

torch::Tensor LinearImpl::lora_update(const torch::Tensor& x) {
  const torch::Tensor input = at::dropout(to_compute(x), lora_dropout_, is_training());
  return at::linear(at::linear(input, compute_weight(lora_a)), compute_weight(lora_b)) * lora_scale_;
}

void LinearImpl::add_lora(const torch::Tensor& a, double scale, double dropout) {
  PV_CHECK(!lora_a.defined(), "LoRA: this layer has an update already; merge it first");
  lora_a = register_parameter("lora_a", a);
  lora_b = register_parameter("lora_b", torch::zeros({weight.size(0), a.size(0)}, a.options()));
  lora_scale_ = scale;
  lora_dropout_ = dropout;
}

void LinearImpl::merge_lora() {
  if (!lora_a.defined()) return;
  torch::NoGradGuard no_grad;
  weight.add_(torch::mm(lora_b, lora_a), lora_scale_);
  parameters_.erase("lora_a");
  parameters_.erase("lora_b");
  lora_a = torch::Tensor();
  lora_b = torch::Tensor();
}

torch::Tensor linear_group(const torch::Tensor& x, const std::vector<LinearImpl*>& linears) {
  const torch::Tensor input = to_compute(x);
  if (held_as_used(linears)) {
    std::vector<torch::Tensor> outputs;
    for (LinearImpl* linear : linears) outputs.push_back(linear->forward(input));
    return torch::cat(outputs, 1);
  }
  torch::Tensor bias;
  if (linears.front()->bias.defined()) {
    std::vector<torch::Tensor> biases;
    for (const LinearImpl* linear : linears) biases.push_back(linear->bias);
    bias = torch::cat(biases).to(compute_dtype());
  }
  torch::Tensor y = at::linear(input, stacked_weight(linears), bias);
  bool any_lora = false;
  for (const LinearImpl* linear : linears) any_lora = any_lora || linear->lora_a.defined();
  if (!any_lora) return y;
  std::vector<torch::Tensor> updates;
  for (LinearImpl* linear : linears) {
    updates.push_back(linear->lora_a.defined() ? linear->lora_update(input)
                                               : torch::zeros({input.size(0), linear->weight.size(0)}, y.options()));
  }
  return y + torch::cat(updates, 1);
}

LayerNormImpl::LayerNormImpl(int64_t size, double eps) : eps_(eps) {
  weight = register_parameter("weight", new_parameter({size}, 1.0));
  bias = register_parameter("bias", new_parameter({size}));
}

torch::Tensor LayerNormImpl::forward(const torch::Tensor& x) {
  return layer_norm(x, weight, bias, eps_, compute_dtype());
}

RmsNormImpl::RmsNormImpl(int64_t size, double eps) : eps_(eps) {
  weight = register_parameter("weight", new_parameter({size}, 1.0));
}

torch::Tensor RmsNormImpl::forward(const torch::Tensor& x) { return rms_norm(x, weight, eps_, compute_dtype()); }

}  // namespace pocketvlm
