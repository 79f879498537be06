#include "model/attention.h"

#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/flash_attention.h"
#include "model/kernel_calls.h"

namespace pocketvlm {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Beyond it LibTorch's flash attention wins: it feeds the bfloat16 matrix units.
constexpr int64_t kLongestKernelSegment = 512;

std::vector<int64_t> starts_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> starts(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), starts.begin(), int64_t{0});
  return starts;
}

int64_t longest_of(const std::vector<int64_t>& lengths) {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

/// A tensor of heads whose rows may lie inside a wider one.
Tensor with_dense_heads(const Tensor& x) {
  return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}

char* at_head(const Tensor& x, int64_t head) {
  return static_cast<char*>(x.data_ptr()) + head * x.size(2) * x.element_size();
}

/// What both directions of a call share. The vectors must outlive the arguments.
struct Segments {
  std::vector<int64_t> q_lengths, k_lengths;
  std::vector<int64_t> q_begin = starts_of(q_lengths);
  std::vector<int64_t> k_begin = starts_of(k_lengths);
  std::vector<int64_t> q_first = {};
  bool causal;

  /// Leaves the leading queries of each segment out, as far as they fill panels.
  void skip_queries(const std::vector<int64_t>& unread) {
    for (std::size_t i = 0; i < unread.size(); ++i) {
      const int64_t skipped = unread[i] / kernels::kQueryPanel * kernels::kQueryPanel;
      q_first.push_back(skipped);
      q_begin[i] += skipped;
      q_lengths[i] -= skipped;
    }
  }

  kernels::Attention arguments(int64_t heads, int64_t kv_heads, int64_t head_dim, torch::Dtype dtype) const {
    kernels::Attention args = {};
    args.heads = heads;
    args.kv_heads = kv_heads;
    args.head_dim = head_dim;
    args.q_begin = q_begin.data();
    args.q_length = q_lengths.data();
    args.k_begin = k_begin.data();
    args.k_length = k_lengths.data();
    args.q_first = q_first.empty() ? nullptr : q_first.data();
    args.causal = causal;
    args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
    args.type = kernel_type(dtype);
    args.longest_k = longest_of(k_lengths);
    return args;
  }
};

void run_attention(decltype(kernels::Table::attention_forward) kernel, const kernels::Attention& args, std::size_t segments) {
  run_items(kernel, args, static_cast<int64_t>(segments) * args.kv_heads, kernels::table().attention_scratch(args));
}

/// Queries, keys and values in one tensor.
struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static Tensor forward(AutogradContext* context,
                        const Tensor& qkv,
                        const std::optional<Tensor>& given_cosine,
                        const std::optional<Tensor>& given_sine,
                        int64_t heads,
                        const std::vector<int64_t>& lengths,
                        bool causal,
                        const std::vector<int64_t>& unread) {
    const Tensor cosine = given_cosine.value_or(Tensor());
    const Tensor sine = given_sine.value_or(Tensor());
    const Tensor input = qkv.contiguous();
    const Tensor out = torch::empty({input.size(0), heads * input.size(2)}, input.options());
    const Tensor log_sum = torch::empty({input.size(0), heads}, input.options().dtype(torch::kFloat32));
    Segments segments = {.q_lengths = lengths, .k_lengths = lengths, .causal = causal};
    segments.skip_queries(unread);
    const kernels::Attention args = arguments(segments, input, cosine, sine, out, log_sum, heads);
    run_attention(kernels::table().attention_forward, args, lengths.size());
    context->save_for_backward({input, cosine, sine, out, log_sum});
    context->saved_data["heads"] = heads;
    context->saved_data["lengths"] = lengths;
    context->saved_data["causal"] = causal;
    context->saved_data["unread"] = unread;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor& input = saved[0];
    const int64_t heads = context->saved_data["heads"].toInt();
    const std::vector<int64_t> lengths = context->saved_data["lengths"].toIntVector();
    const std::vector<int64_t> unread = context->saved_data["unread"].toIntVector();
    Segments segments = {.q_lengths = lengths, .k_lengths = lengths, .causal = context->saved_data["causal"].toBool()};
    segments.skip_queries(unread);
    kernels::Attention args = arguments(segments, input, saved[1], saved[2], saved[3], saved[4], heads);
    const Tensor grad_out = grads[0].contiguous();
    const Tensor grad = unread.empty() ? torch::empty_like(input) : torch::zeros_like(input);
    args.grad_out = grad_out.data_ptr();
    args.grad_q = grad.data_ptr();
    args.grad_k = at_head(grad, heads);
    args.grad_v = at_head(grad, heads + args.kv_heads);
    args.grad_q_stride = args.grad_k_stride = args.grad_v_stride = grad.stride(0);
    run_attention(kernels::table().attention_backward, args, lengths.size());
    variable_list result(7);
    result[0] = grad;
    return result;
  }

 private:
  static kernels::Attention arguments(const Segments& segments,
                                      const Tensor& input,
                                      const Tensor& cosine,
                                      const Tensor& sine,
                                      const Tensor& out,
                                      const Tensor& log_sum,
                                      int64_t heads) {
    const int64_t kv_heads = (input.size(1) - heads) / 2;
    kernels::Attention args = segments.arguments(heads, kv_heads, input.size(2), input.scalar_type());
    args.q = input.data_ptr();
    args.k = at_head(input, heads);
    args.v = at_head(input, heads + kv_heads);
    args.q_stride = args.k_stride = args.v_stride = input.stride(0);
    args.cosine = cosine.defined() ? cosine.data_ptr<float>() : nullptr;
    args.sine = sine.defined() ? sine.data_ptr<float>() : nullptr;
    args.out = out.data_ptr();
    args.log_sum = log_sum.data_ptr<float>();
    return args;
  }
};

/// Queries, keys and values apart, with lengths of their own.
struct CrossAttention : torch::autograd::Function<CrossAttention> {
  static Tensor forward(AutogradContext* context,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        const std::vector<int64_t>& q_lengths,
                        const std::vector<int64_t>& k_lengths,
                        bool causal) {
    const Tensor queries = with_dense_heads(q), keys = with_dense_heads(k), values = with_dense_heads(v);
    const Tensor out = torch::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
    const Tensor log_sum = torch::empty({q.size(0), q.size(1)}, q.options().dtype(torch::kFloat32));
    const Segments segments = {.q_lengths = q_lengths, .k_lengths = k_lengths, .causal = causal};
    const kernels::Attention args = arguments(segments, queries, keys, values, out, log_sum);
    run_attention(kernels::table().attention_forward, args, q_lengths.size());
    context->save_for_backward({queries, keys, values, out, log_sum});
    context->saved_data["q_lengths"] = q_lengths;
    context->saved_data["k_lengths"] = k_lengths;
    context->saved_data["causal"] = causal;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Segments segments = {.q_lengths = context->saved_data["q_lengths"].toIntVector(),
                               .k_lengths = context->saved_data["k_lengths"].toIntVector(),
                               .causal = context->saved_data["causal"].toBool()};
    kernels::Attention args = arguments(segments, saved[0], saved[1], saved[2], saved[3], saved[4]);
    const Tensor grad_out = grads[0].contiguous();
    const auto dense_like = [](const Tensor& x) { return torch::empty(x.sizes(), x.options()); };
    const Tensor grad_q = dense_like(saved[0]), grad_k = dense_like(saved[1]), grad_v = dense_like(saved[2]);
    args.grad_out = grad_out.data_ptr();
    args.grad_q = grad_q.data_ptr();
    args.grad_k = grad_k.data_ptr();
    args.grad_v = grad_v.data_ptr();
    args.grad_q_stride = grad_q.stride(0);
    args.grad_k_stride = grad_k.stride(0);
    args.grad_v_stride = grad_v.stride(0);
    run_attention(kernels::table().attention_backward, args, segments.q_lengths.size());
    return {grad_q, grad_k, grad_v, Tensor(), Tensor(), Tensor()};
  }

 private:
  static kernels::Attention arguments(const Segments& segments,
                                      const Tensor& q,
                                      const Tensor& k,
                                      const Tensor& v,
                                      const Tensor& out,
                                      const Tensor& log_sum) {
    kernels::Attention args = segments.arguments(q.size(1), k.size(1), q.size(2), q.scalar_type());
    args.q = q.data_ptr();
    args.k = k.data_ptr();
    args.v = v.data_ptr();
    args.q_stride = q.stride(0);
    args.k_stride = k.stride(0);
    args.v_stride = v.stride(0);
    args.out = out.data_ptr();
    args.log_sum = log_sum.data_ptr<float>();
    return args;
  }
};

/// Neighbouring segments of one shape run as one call of LibTorch's attention.
Tensor attention_operators(const Tensor& q,
                           const Tensor& k,
                           const Tensor& v,
                           const std::vector<int64_t>& q_lengths,
                           const std::vector<int64_t>& k_lengths,
                           bool causal) {
  struct Run {
    int64_t count, q_length, k_length;
  };
  std::vector<Run> runs;
  for (std::size_t i = 0; i < q_lengths.size(); ++i) {
    if (!runs.empty() && runs.back().q_length == q_lengths[i] && runs.back().k_length == k_lengths[i]) {
      ++runs.back().count;
    } else {
      runs.push_back({1, q_lengths[i], k_lengths[i]});
    }
  }
  std::vector<int64_t> q_sizes, k_sizes;
  for (const Run& run : runs) {
    q_sizes.push_back(run.count * run.q_length);
    k_sizes.push_back(run.count * run.k_length);
  }
  // One split instead of many slices: the backward of a slice fills a whole tensor with zeros.
  const auto qs = q.split_with_sizes(q_sizes);
  const auto ks = k.split_with_sizes(k_sizes);
  const auto vs = v.split_with_sizes(k_sizes);
  std::vector<Tensor> outputs;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto batched = [&](const Tensor& x) { return x.unflatten(0, {runs[i].count, -1}).transpose(1, 2); };
    const Tensor out = at::scaled_dot_product_attention(
        batched(qs[i]), batched(ks[i]), batched(vs[i]), {}, 0.0, causal, std::nullopt, q.size(1) != k.size(1));
    outputs.push_back(out.transpose(1, 2).reshape({q_sizes[i], q.size(1) * q.size(2)}));
  }
  return outputs.size() == 1 ? outputs.front() : torch::cat(outputs);
}

bool use_kernel(const Tensor& x, const std::vector<int64_t>& k_lengths) {
  return cpu_kernels_take(x) && longest_of(k_lengths) <= kLongestKernelSegment;
}

}  // namespace

torch::Tensor segment_attention(const torch::Tensor& q,
                                const torch::Tensor& k,
                                const torch::Tensor& v,
                                const std::vector<int64_t>& lengths,
                                bool causal) {
  if (use_kernel(q, lengths)) return CrossAttention::apply(q, k, v, lengths, lengths, causal);
  if (flash_takes(q)) return flash_cross_attention(q, k, v, lengths, lengths, causal);
  return attention_operators(q, k, v, lengths, lengths, causal);
}

torch::Tensor packed_attention(const torch::Tensor& qkv,
                               int64_t heads,
                               const RotaryTable* rotary,
                               const std::vector<int64_t>& lengths,
                               bool causal,
                               const std::vector<int64_t>& unread) {
  if (use_kernel(qkv, lengths)) {
    return PackedAttention::apply(qkv,
                                  rotary != nullptr ? std::optional<Tensor>(rotary->cosine) : std::nullopt,
                                  rotary != nullptr ? std::optional<Tensor>(rotary->sine) : std::nullopt,
                                  heads,
                                  lengths,
                                  causal,
                                  unread);
  }
  if (flash_takes(qkv)) return flash_packed_attention(qkv, heads, rotary, lengths, causal);
  const int64_t kv_heads = (qkv.size(1) - heads) / 2;
  const Tensor turned = rotary != nullptr ? rotate_heads(qkv, *rotary, heads + kv_heads) : qkv;
  return attention_operators(turned.narrow(1, 0, heads),
                             turned.narrow(1, heads, kv_heads),
                             turned.narrow(1, heads + kv_heads, kv_heads),
                             lengths,
                             lengths,
                             causal);
}

torch::Tensor cross_attention(const torch::Tensor& q,
                              const torch::Tensor& k,
                              const torch::Tensor& v,
                              const std::vector<int64_t>& q_lengths,
                              const std::vector<int64_t>& k_lengths) {
  if (use_kernel(q, k_lengths)) return CrossAttention::apply(q, k, v, q_lengths, k_lengths, false);
  if (flash_takes(q)) return flash_cross_attention(q, k, v, q_lengths, k_lengths, false);
  return attention_operators(q, k, v, q_lengths, k_lengths, false);
}

}  // namespace pocketvlm
