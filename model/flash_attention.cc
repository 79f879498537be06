#include "model/flash_attention.h"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace pocketvlm {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Segments = FlashOperators::Segments;

/// Where each segment begins and the last one ends, on the device. Every layer of a pack asks for the same: the last answer of a
/// thread is kept. The copy does not wait for what the device has to do.
Tensor starts_of(const std::vector<int64_t>& lengths, torch::Device device) {
  struct Kept {
    std::vector<int64_t> lengths;
    Tensor starts;
  };
  thread_local Kept kept;
  if (kept.starts.defined() && kept.lengths == lengths && kept.starts.device() == device) return kept.starts;
  std::vector<std::int32_t> starts = {0};
  for (const int64_t length : lengths) starts.push_back(static_cast<std::int32_t>(starts.back() + length));
  const Tensor on_host = torch::tensor(starts, torch::kInt32);
  kept = {lengths, device.is_cuda() ? on_host.pin_memory().to(device, /*non_blocking=*/true) : on_host.to(device)};
  return kept.starts;
}

Segments segments_of(const std::vector<int64_t>& q_lengths,
                     const std::vector<int64_t>& k_lengths,
                     bool causal,
                     torch::Device device) {
  TORCH_INTERNAL_ASSERT(!q_lengths.empty() && q_lengths.size() == k_lengths.size() && (!causal || q_lengths == k_lengths));
  Segments segments;
  segments.q_starts = starts_of(q_lengths, device);
  segments.k_starts = q_lengths == k_lengths ? segments.q_starts : starts_of(k_lengths, device);
  segments.longest_q = *std::max_element(q_lengths.begin(), q_lengths.end());
  segments.longest_k = *std::max_element(k_lengths.begin(), k_lengths.end());
  segments.causal = causal;
  return segments;
}

constexpr double kNoDropout = 0.0;

/// The scale is LibTorch's default, 1 / sqrt(head_dim). Causal masks of segments with as many queries as keys are the same
/// whether they are aligned at the first or at the last token.
FlashOperators::Outputs libtorch_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Segments& segments) {
  auto [out, log_sum, random_state, unused, mask] = at::_flash_attention_forward(q,
                                                                                 k,
                                                                                 v,
                                                                                 segments.q_starts,
                                                                                 segments.k_starts,
                                                                                 segments.longest_q,
                                                                                 segments.longest_k,
                                                                                 kNoDropout,
                                                                                 segments.causal,
                                                                                 /*return_debug_mask=*/false);
  return {out, log_sum, random_state, unused};
}

FlashOperators::Gradients libtorch_backward(const Tensor& grad_out,
                                            const Tensor& q,
                                            const Tensor& k,
                                            const Tensor& v,
                                            const FlashOperators::Outputs& outputs,
                                            const Segments& segments) {
  const auto& [out, log_sum, random_state, unused] = outputs;
  return at::_flash_attention_backward(grad_out,
                                       q,
                                       k,
                                       v,
                                       out,
                                       log_sum,
                                       segments.q_starts,
                                       segments.k_starts,
                                       segments.longest_q,
                                       segments.longest_k,
                                       kNoDropout,
                                       segments.causal,
                                       random_state,
                                       unused);
}

/// What a backward needs of operators and segments beside tensors.
void keep_call(AutogradContext* context, const FlashOperators& operators, const Segments& segments) {
  context->saved_data["operators"] = reinterpret_cast<int64_t>(&operators);  // they live as long as the program
  context->saved_data["longest_q"] = segments.longest_q;
  context->saved_data["longest_k"] = segments.longest_k;
  context->saved_data["causal"] = segments.causal;
}

const FlashOperators& kept_operators(AutogradContext* context) {
  return *reinterpret_cast<const FlashOperators*>(context->saved_data["operators"].toInt());
}

Segments kept_segments(AutogradContext* context, const Tensor& q_starts, const Tensor& k_starts) {
  return {q_starts,
          k_starts,
          context->saved_data["longest_q"].toInt(),
          context->saved_data["longest_k"].toInt(),
          context->saved_data["causal"].toBool()};
}

/// Queries, keys and values in one tensor, [tokens, heads + 2 * kv_heads, head_dim]; returns [tokens, heads, head_dim].
struct FlashPacked : torch::autograd::Function<FlashPacked> {
  static Tensor forward(AutogradContext* context,
                        const Tensor& qkv,
                        const std::optional<Tensor>& given_cosine,
                        const std::optional<Tensor>& given_sine,
                        int64_t heads,
                        const std::vector<int64_t>& lengths,
                        bool causal,
                        const FlashOperators* operators) {
    const Tensor input = qkv.contiguous();
    Tensor turned = input;
    if (given_cosine.has_value()) {
      turned = torch::empty_like(input);
      turn_heads(input, {*given_cosine, *given_sine}, rotated(input, heads), /*inverse=*/false, turned);
    }
    const Segments segments = segments_of(lengths, lengths, causal, input.device());
    const Parts parts(turned, heads);
    const FlashOperators::Outputs outputs = operators->forward(parts.q, parts.k, parts.v, segments);
    const auto& [out, log_sum, random_state, unused] = outputs;
    keep_call(context, *operators, segments);
    context->saved_data["heads"] = heads;
    context->save_for_backward({turned,
                                given_cosine.value_or(Tensor()),
                                given_sine.value_or(Tensor()),
                                out,
                                log_sum,
                                random_state,
                                unused,
                                segments.q_starts});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &turned = saved[0], &cosine = saved[1], &sine = saved[2], &out = saved[3];
    const int64_t heads = context->saved_data["heads"].toInt();
    const Segments segments = kept_segments(context, saved[7], saved[7]);
    const Parts parts(turned, heads);
    const auto [grad_q, grad_k, grad_v] = kept_operators(context).backward(
        grads[0].contiguous(), parts.q, parts.k, parts.v, {out, saved[4], saved[5], saved[6]}, segments);
    const Tensor grad = torch::empty_like(turned);
    const Parts into(grad, heads);
    if (cosine.defined()) {
      turn_heads(grad_q.contiguous(), {cosine, sine}, heads, /*inverse=*/true, into.q);
      turn_heads(grad_k.contiguous(), {cosine, sine}, into.k.size(1), /*inverse=*/true, into.k);
    } else {
      into.q.copy_(grad_q);
      into.k.copy_(grad_k);
    }
    into.v.copy_(grad_v);
    variable_list result(7);
    result[0] = grad;
    return result;
  }

 private:
  struct Parts {
    Parts(const Tensor& qkv, int64_t heads)
        : q(qkv.narrow(1, 0, heads)),
          k(qkv.narrow(1, heads, (qkv.size(1) - heads) / 2)),
          v(qkv.narrow(1, heads + k.size(1), k.size(1))) {}
    Tensor q, k, v;
  };
  static int64_t rotated(const Tensor& qkv, int64_t heads) { return heads + (qkv.size(1) - heads) / 2; }
};

/// Queries, keys and values apart.
struct FlashCross : torch::autograd::Function<FlashCross> {
  static Tensor forward(AutogradContext* context,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        const std::vector<int64_t>& q_lengths,
                        const std::vector<int64_t>& k_lengths,
                        bool causal,
                        const FlashOperators* operators) {
    const Tensor queries = with_dense_ends(q), keys = with_dense_ends(k), values = with_dense_ends(v);
    const Segments segments = segments_of(q_lengths, k_lengths, causal, q.device());
    const FlashOperators::Outputs outputs = operators->forward(queries, keys, values, segments);
    const auto& [out, log_sum, random_state, unused] = outputs;
    keep_call(context, *operators, segments);
    context->save_for_backward(
        {queries, keys, values, out, log_sum, random_state, unused, segments.q_starts, segments.k_starts});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto [grad_q, grad_k, grad_v] = kept_operators(context).backward(grads[0].contiguous(),
                                                                           saved[0],
                                                                           saved[1],
                                                                           saved[2],
                                                                           {saved[3], saved[4], saved[5], saved[6]},
                                                                           kept_segments(context, saved[7], saved[8]));
    variable_list result = {grad_q, grad_k, grad_v};
    result.resize(7);
    return result;
  }

 private:
  static Tensor with_dense_ends(const Tensor& x) { return x.stride(2) == 1 ? x : x.contiguous(); }
};

}  // namespace

const FlashOperators& flash_operators() {
  static const FlashOperators operators = {libtorch_forward, libtorch_backward};
  return operators;
}

bool flash_takes(const torch::Tensor& heads) {
  return heads.is_cuda() && heads.scalar_type() == torch::kBFloat16 && heads.size(2) % 8 == 0 && heads.size(2) <= 256;
}

torch::Tensor flash_packed_attention(const torch::Tensor& qkv,
                                     int64_t heads,
                                     const RotaryTable* rotary,
                                     const std::vector<int64_t>& lengths,
                                     bool causal,
                                     const FlashOperators& operators) {
  return FlashPacked::apply(qkv,
                            rotary != nullptr ? std::optional<Tensor>(rotary->cosine) : std::nullopt,
                            rotary != nullptr ? std::optional<Tensor>(rotary->sine) : std::nullopt,
                            heads,
                            lengths,
                            causal,
                            &operators)
      .flatten(1);
}

torch::Tensor flash_cross_attention(const torch::Tensor& q,
                                    const torch::Tensor& k,
                                    const torch::Tensor& v,
                                    const std::vector<int64_t>& q_lengths,
                                    const std::vector<int64_t>& k_lengths,
                                    bool causal,
                                    const FlashOperators& operators) {
  return FlashCross::apply(q, k, v, q_lengths, k_lengths, causal, &operators).flatten(1);
}

}  // namespace pocketvlm
