#include "model/layers.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "model/fused_ops.h"
#include "model/kernel_calls.h"
#include "model/lora.h"

namespace pocketvlm {
namespace {

thread_local torch::Dtype current_compute_dtype = torch::kFloat32;
thread_local int placeholder_guards = 0;

/// Copies of weights for products of this thread, by the identity of the (first) weight. `sources` keeps the originals alive,
/// so that an identity cannot be reused while its entry exists.
struct WeightCache {
  struct Entry {
    std::vector<torch::Tensor> sources;
    torch::Tensor copy;
  };
  int guards = 0;
  std::unordered_map<const void*, Entry> casts;
  std::unordered_map<const void*, Entry> stacks;
  std::unordered_map<const void*, Entry> panels;
};
thread_local WeightCache cache;

bool may_cache(const torch::Tensor& weight) {
  return cache.guards > 0 && !(torch::GradMode::is_enabled() && weight.requires_grad());
}

/// The copy that `make` gives of these weights, made once.
template <typename Make>
const torch::Tensor& kept_copy(std::unordered_map<const void*, WeightCache::Entry>& entries,
                               const std::vector<torch::Tensor>& weights,
                               Make make) {
  auto& entry = entries[weights.front().unsafeGetTensorImpl()];
  if (!entry.copy.defined() || entry.copy.scalar_type() != compute_dtype() || entry.sources.size() != weights.size()) {
    entry = {weights, make()};
  }
  return entry.copy;
}

torch::Tensor stacked(const std::vector<torch::Tensor>& tensors) {
  return tensors.size() == 1 ? tensors.front() : torch::cat(tensors);
}

bool all_may_cache(const std::vector<torch::Tensor>& weights) {
  return std::all_of(weights.begin(), weights.end(), may_cache);
}

/// Whether cached weights should be panels for our own product instead of a cast for LibTorch's, which would bring them into
/// such a form again for every token.
bool panels_take(const torch::Tensor& x, const std::vector<torch::Tensor>& weights) {
  return compute_dtype() == torch::kBFloat16 && x.is_cpu() && x.dim() == 2 &&
         std::all_of(weights.begin(), weights.end(), [](const torch::Tensor& weight) {
           return may_cache(weight) && weight.scalar_type() == torch::kFloat32;
         });
}

torch::Tensor pack(const torch::Tensor& stacked_weights) {
  const torch::Tensor weight = stacked_weights.contiguous();
  const int64_t columns = weight.size(0), depth = weight.size(1);
  torch::Tensor panels = torch::empty({kernels::panel_values(columns, depth)}, torch::kBFloat16);
  const kernels::PackPanels args = {columns, depth, weight.data_ptr(), panels.data_ptr(), kernels::Type::kFloat};
  at::parallel_for(0, (columns + kernels::kPanelColumns - 1) / kernels::kPanelColumns, 1, [&](int64_t begin, int64_t end) {
    kernels::table().pack_panels(args, begin, end);
  });
  return panels;
}

/// x W^T + b for weights stacked by rows; `bias` in any dtype, or undefined.
torch::Tensor panel_product(const torch::Tensor& x, const std::vector<torch::Tensor>& weights, const torch::Tensor& bias) {
  const torch::Tensor panels = kept_copy(cache.panels, weights, [&] { return pack(stacked(weights)); });
  const torch::Tensor input = x.contiguous();
  // Rounded as LibTorch's product would take it.
  const torch::Tensor added = bias.defined() ? bias.to(torch::kBFloat16).to(torch::kFloat32) : bias;
  int64_t columns = 0;
  for (const torch::Tensor& weight : weights) columns += weight.size(0);
  torch::Tensor y = torch::empty({x.size(0), columns}, input.options());
  const kernels::PackedProduct args = {.rows = x.size(0),
                                       .depth = x.size(1),
                                       .columns = columns,
                                       .x = input.data_ptr(),
                                       .panels = panels.data_ptr(),
                                       .bias = added.defined() ? added.data_ptr<float>() : nullptr,
                                       .y = y.data_ptr()};
  at::parallel_for(0, (columns + kernels::kPanelColumns - 1) / kernels::kPanelColumns, 1, [&](int64_t begin, int64_t end) {
    kernels::table().packed_product(args, begin, end);
  });
  return y;
}

/// Weights of one width, one below the other in compute dtype: each is read once, and so is the gradient on its way back.
struct StackedCast : torch::autograd::Function<StackedCast> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context, at::TensorList weights, torch::Dtype dtype) {
    std::vector<int64_t> rows;
    int64_t total = 0;
    for (const torch::Tensor& weight : weights) {
      rows.push_back(weight.size(0));
      total += rows.back();
    }
    const torch::Tensor stack = torch::empty({total, weights[0].size(1)}, weights[0].options().dtype(dtype));
    const std::vector<torch::Tensor> parts = stack.split_with_sizes(rows);
    for (std::size_t i = 0; i < parts.size(); ++i) torch::Tensor(parts[i]).copy_(weights[i]);
    context->saved_data["rows"] = rows;
    context->saved_data["type"] = static_cast<int64_t>(weights[0].scalar_type());
    return stack;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto dtype = static_cast<torch::Dtype>(context->saved_data["type"].toInt());
    torch::autograd::variable_list result = grads[0].split_with_sizes(context->saved_data["rows"].toIntVector());
    for (std::size_t i = 0; i < result.size(); ++i) {
      result[i] = context->needs_input_grad(i) ? result[i].to(dtype) : torch::Tensor();
    }
    result.emplace_back();
    return result;
  }
};

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

CachedWeights::CachedWeights() { ++cache.guards; }

CachedWeights::~CachedWeights() {
  if (--cache.guards == 0) cache = {};
}

torch::Tensor compute_weight(const torch::Tensor& weight) {
  if (weight.scalar_type() == compute_dtype()) return weight;
  if (!may_cache(weight)) return weight.to(compute_dtype());
  return kept_copy(cache.casts, {weight}, [&] { return weight.to(compute_dtype()); });
}

torch::Tensor product(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias) {
  const torch::Tensor input = to_compute(x);
  if (panels_take(input, {weight})) return panel_product(input, {weight}, bias);
  return at::linear(input, compute_weight(weight), bias.defined() ? compute_weight(bias) : torch::Tensor());
}

LinearImpl::LinearImpl(int64_t in_features, int64_t out_features, bool with_bias) {
  weight = register_parameter("weight", new_parameter({out_features, in_features}));
  if (with_bias) bias = register_parameter("bias", new_parameter({out_features}));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const torch::Tensor input = to_compute(x);
  const torch::Tensor y = product(input, weight, bias);
  return lora_a.defined() && !lora_is_left_out() ? y + lora_update(input) : y;
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
  std::vector<torch::Tensor> weights, biases;
  for (const LinearImpl* linear : linears) {
    weights.push_back(linear->weight);
    if (linear->bias.defined()) biases.push_back(linear->bias);
  }
  const torch::Tensor bias = biases.empty() ? torch::Tensor() : torch::cat(biases);
  torch::Tensor y;
  if (panels_take(input, weights)) {
    y = panel_product(input, weights, bias);
  } else {
    const auto cast = [&] { return StackedCast::apply(at::TensorList(weights), compute_dtype()); };
    y = at::linear(input,
                   all_may_cache(weights) ? kept_copy(cache.stacks, weights, cast) : cast(),
                   bias.defined() ? bias.to(compute_dtype()) : bias);
  }
  bool any_lora = false;
  for (const LinearImpl* linear : linears) any_lora = any_lora || linear->lora_a.defined();
  if (!any_lora || lora_is_left_out()) return y;
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
