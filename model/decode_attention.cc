#include "model/decode_attention.h"

#include <algorithm>
#include <cmath>

#include "model/kernel_calls.h"

namespace pocketvlm {

KvCache::KvCache(const std::vector<int64_t>& prompt_lengths, int64_t samples_per_prompt, int64_t tail_capacity)
    : prefix_lengths(prompt_lengths), samples(samples_per_prompt), capacity(tail_capacity) {
  prefix = *std::max_element(prompt_lengths.begin(), prompt_lengths.end());
}

void KvCache::add_layer(const torch::Tensor& k, const torch::Tensor& v) {
  const auto prompts = static_cast<int64_t>(prefix_lengths.size());
  const auto padded = [&](const torch::Tensor& x) {
    torch::Tensor out = torch::zeros({prompts, x.size(1), prefix, x.size(2)}, x.options());
    const auto parts = x.split_with_sizes(prefix_lengths);
    for (int64_t p = 0; p < prompts; ++p) {
      const auto part = static_cast<std::size_t>(p);
      out[p].narrow(1, 0, prefix_lengths[part]).copy_(parts[part].transpose(0, 1));
    }
    return out;
  };
  const auto tail_space = [&](const torch::Tensor& x) {
    return torch::empty({prompts * samples, x.size(1), capacity, x.size(2)}, x.options());
  };
  layers.push_back({padded(k), padded(v), tail_space(k), tail_space(v)});
}

torch::Tensor KvCache::next_positions(torch::Device device) const {
  std::vector<int64_t> positions;
  for (const int64_t length : prefix_lengths) {
    positions.insert(positions.end(), static_cast<std::size_t>(samples), length + tail);
  }
  return torch::tensor(positions, torch::kInt64).to(device);
}

torch::Tensor KvCache::prefix_mask(torch::Device device) const {
  const bool equal = std::all_of(
      prefix_lengths.begin(), prefix_lengths.end(), [&](int64_t length) { return length == prefix; });
  if (equal) return {};
  const torch::Tensor lengths = torch::tensor(prefix_lengths, torch::kInt64).to(device);
  return torch::arange(prefix, lengths.options()).unsqueeze(0) >= lengths.unsqueeze(1);
}

void KvCache::keep(const std::vector<int64_t>& prompts) {
  std::vector<int64_t> sequences;
  std::vector<int64_t> lengths;
  for (const int64_t prompt : prompts) {
    lengths.push_back(prefix_lengths[static_cast<std::size_t>(prompt)]);
    for (int64_t s = 0; s < samples; ++s) sequences.push_back(prompt * samples + s);
  }
  const torch::Device device = layers.front().prefix_key.device();
  const torch::Tensor prompt_index = torch::tensor(prompts, torch::kInt64).to(device);
  const torch::Tensor sequence_index = torch::tensor(sequences, torch::kInt64).to(device);
  prefix_lengths = std::move(lengths);
  for (Layer& layer : layers) {
    layer.prefix_key = layer.prefix_key.index_select(0, prompt_index);
    layer.prefix_value = layer.prefix_value.index_select(0, prompt_index);
    layer.tail_key = layer.tail_key.index_select(0, sequence_index);
    layer.tail_value = layer.tail_value.index_select(0, sequence_index);
  }
}

namespace {

torch::Tensor attend_with_kernel(const torch::Tensor& q, const KvCache& cache, const KvCache::Layer& layer) {
  TORCH_INTERNAL_ASSERT(q.stride(2) == 1 && q.stride(1) == q.size(2));
  const torch::Tensor out = torch::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  const kernels::DecodeAttention args = {.heads = q.size(1),
                                         .kv_heads = layer.tail_key.size(1),
                                         .head_dim = q.size(2),
                                         .samples = cache.samples,
                                         .prefix_capacity = cache.prefix,
                                         .prefix_lengths = cache.prefix_lengths.data(),
                                         .tail = cache.tail + 1,
                                         .tail_capacity = cache.capacity,
                                         .q = q.data_ptr(),
                                         .q_stride = q.stride(0),
                                         .prefix_key = layer.prefix_key.data_ptr(),
                                         .prefix_value = layer.prefix_value.data_ptr(),
                                         .tail_key = layer.tail_key.data_ptr(),
                                         .tail_value = layer.tail_value.data_ptr(),
                                         .out = out.data_ptr(),
                                         .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(2)))),
                                         .type = kernel_type(q.scalar_type())};
  run_items(kernels::table().decode_attention, args, q.size(0) * args.kv_heads, kernels::table().decode_scratch(args));
  return out;
}

/// Products of matrices instead of SDPA: for one query row in bfloat16 that is an order of magnitude faster. The
/// samples of a prompt read its prefix together, as rows of one query matrix.
torch::Tensor attend_with_operators(const torch::Tensor& q, const KvCache& cache, const KvCache::Layer& layer) {
  const auto prompts = static_cast<int64_t>(cache.prefix_lengths.size());
  const int64_t samples = cache.samples;
  const int64_t kv_heads = layer.tail_key.size(1);
  const int64_t head_dim = q.size(2);
  const int64_t group = q.size(1) / kv_heads;
  const int64_t seen = cache.tail + 1;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  const torch::Tensor by_prompt = q.reshape({prompts, samples, kv_heads, group, head_dim})
                                      .transpose(1, 2)
                                      .reshape({prompts, kv_heads, samples * group, head_dim});
  torch::Tensor prefix_scores =
      torch::matmul(by_prompt, layer.prefix_key.transpose(2, 3)).to(torch::kFloat32).mul_(scale);
  const torch::Tensor mask = cache.prefix_mask(q.device());
  if (mask.defined()) {
    prefix_scores.masked_fill_(mask.view({prompts, 1, 1, cache.prefix}), -std::numeric_limits<float>::infinity());
  }
  const torch::Tensor by_sequence = q.reshape({prompts * samples, kv_heads, group, head_dim});
  const torch::Tensor tail_scores =
      torch::matmul(by_sequence, layer.tail_key.narrow(2, 0, seen).transpose(2, 3)).to(torch::kFloat32).mul_(scale);

  const torch::Tensor own_prefix = prefix_scores.view({prompts, kv_heads, samples, group, cache.prefix})
                                       .transpose(1, 2)
                                       .reshape({prompts * samples, kv_heads, group, cache.prefix});
  const torch::Tensor weights =
      torch::softmax(torch::cat({own_prefix, tail_scores}, 3), 3).to(layer.prefix_value.scalar_type());
  const torch::Tensor prefix_weights = weights.narrow(3, 0, cache.prefix)
                                           .reshape({prompts, samples, kv_heads, group, cache.prefix})
                                           .transpose(1, 2)
                                           .reshape({prompts, kv_heads, samples * group, cache.prefix});
  const torch::Tensor from_prefix = torch::matmul(prefix_weights, layer.prefix_value)
                                        .view({prompts, kv_heads, samples, group, head_dim})
                                        .transpose(1, 2)
                                        .reshape({prompts * samples, kv_heads * group * head_dim});
  const torch::Tensor from_tail =
      torch::matmul(weights.narrow(3, cache.prefix, seen), layer.tail_value.narrow(2, 0, seen))
          .reshape({prompts * samples, kv_heads * group * head_dim});
  return from_prefix + from_tail;
}

}  // namespace

torch::Tensor decode_attention(const torch::Tensor& q,
                               const torch::Tensor& k,
                               const torch::Tensor& v,
                               const KvCache& cache,
                               KvCache::Layer& layer) {
  layer.tail_key.select(2, cache.tail).copy_(k);
  layer.tail_value.select(2, cache.tail).copy_(v);
  return cpu_kernels_take(q) ? attend_with_kernel(q, cache, layer) : attend_with_operators(q, cache, layer);
}

}  // namespace pocketvlm
