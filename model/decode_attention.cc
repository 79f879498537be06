#include "model/decode_attention.h"

#include <algorithm>
#include <cmath>

#include "model/kernel_calls.h"

namespace pocketvlm {

KvCache::KvCache(int64_t places, int64_t samples_per_prompt, int64_t tail_capacity)
    : prefix_lengths(static_cast<std::size_t>(places), 0),
      tails(static_cast<std::size_t>(places * samples_per_prompt), 0),
      samples(samples_per_prompt),
      capacity(tail_capacity) {}

void KvCache::begin_prompts(const std::vector<int64_t>& at, const std::vector<int64_t>& lengths) {
  TORCH_INTERNAL_ASSERT(at.size() == lengths.size());
  const int64_t longest = std::max(prefix, *std::max_element(lengths.begin(), lengths.end()));
  const auto grown = [&](const torch::Tensor& x) {
    const torch::Tensor larger = torch::zeros({x.size(0), x.size(1), longest, x.size(3)}, x.options());
    larger.narrow(2, 0, prefix).copy_(x);
    return larger;
  };
  if (longest > prefix) {
    for (Layer& layer : layers) {
      layer.prefix_key = grown(layer.prefix_key);
      layer.prefix_value = grown(layer.prefix_value);
    }
  }
  prefix = longest;
  for (std::size_t i = 0; i < at.size(); ++i) {
    prefix_lengths[static_cast<std::size_t>(at[i])] = lengths[i];
    std::fill_n(tails.begin() + at[i] * samples, samples, 0);
  }
}

void KvCache::fill_layer(std::size_t layer, const std::vector<int64_t>& at, const torch::Tensor& k, const torch::Tensor& v) {
  const auto places = static_cast<int64_t>(prefix_lengths.size());
  // What no sequence has written is never read by the kernel, but multiplied by zero on other devices.
  const auto tail_space = [&](const torch::Tensor& x) {
    const std::vector<int64_t> shape = {places * samples, x.size(1), capacity, x.size(2)};
    return cpu_kernels_take(x) ? torch::empty(shape, x.options()) : torch::zeros(shape, x.options());
  };
  const auto prefix_space = [&](const torch::Tensor& x) {
    return torch::zeros({places, x.size(1), prefix, x.size(2)}, x.options());
  };
  if (layer == layers.size()) layers.push_back({prefix_space(k), prefix_space(v), tail_space(k), tail_space(v)});
  std::vector<int64_t> lengths;
  for (const int64_t place : at) lengths.push_back(prefix_lengths[static_cast<std::size_t>(place)]);
  const auto fill = [&](const torch::Tensor& prefixes, const torch::Tensor& x) {
    const auto parts = x.split_with_sizes(lengths);
    for (std::size_t i = 0; i < at.size(); ++i)
      prefixes[at[i]].narrow(1, 0, lengths[i]).copy_(parts[i].transpose(0, 1));
  };
  fill(layers[layer].prefix_key, k);
  fill(layers[layer].prefix_value, v);
}

torch::Tensor KvCache::next_positions(const std::vector<int64_t>& sequences, torch::Device device) const {
  std::vector<int64_t> positions;
  for (const int64_t sequence : sequences) {
    positions.push_back(prefix_lengths[static_cast<std::size_t>(sequence / samples)] +
                        tails[static_cast<std::size_t>(sequence)]);
  }
  return torch::tensor(positions, torch::kInt64).to(device);
}

namespace {

torch::Tensor attend_with_kernel(const torch::Tensor& q,
                                 const torch::Tensor& k,
                                 const torch::Tensor& v,
                                 const std::vector<int64_t>& sequences,
                                 const KvCache& cache,
                                 KvCache::Layer& layer) {
  for (const torch::Tensor& x : {q, k, v}) TORCH_INTERNAL_ASSERT(x.stride(2) == 1 && x.stride(1) == x.size(2));
  const torch::Tensor out = torch::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  const kernels::DecodeAttention args = {.heads = q.size(1),
                                         .kv_heads = layer.tail_key.size(1),
                                         .head_dim = q.size(2),
                                         .samples = cache.samples,
                                         .prefix_capacity = cache.prefix,
                                         .prefix_lengths = cache.prefix_lengths.data(),
                                         .sequences = sequences.data(),
                                         .tails = cache.tails.data(),
                                         .tail_capacity = cache.capacity,
                                         .q = q.data_ptr(),
                                         .k = k.data_ptr(),
                                         .v = v.data_ptr(),
                                         .q_stride = q.stride(0),
                                         .k_stride = k.stride(0),
                                         .v_stride = v.stride(0),
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

/// [rows, length], true where a row's keys have ended.
torch::Tensor ended(const std::vector<int64_t>& lengths, int64_t length, torch::Device device) {
  const torch::Tensor all = torch::tensor(lengths, torch::kInt64).to(device);
  return torch::arange(length, all.options()).unsqueeze(0) >= all.unsqueeze(1);
}

void look_up_places(DecodeStep& step, const KvCache& cache, torch::Device device) {
  std::vector<int64_t> newest;
  std::vector<int64_t> seen(cache.tails.size(), 0);  // keys of each tail, for those that are asked for
  for (const int64_t sequence : step.sequences) {
    const int64_t tail = cache.tails[static_cast<std::size_t>(sequence)];
    newest.push_back(tail);
    seen[static_cast<std::size_t>(sequence)] = tail + 1;
  }
  step.longest = *std::max_element(seen.begin(), seen.end());
  step.index = torch::tensor(step.sequences, torch::kInt64).to(device);
  step.newest = torch::tensor(newest, torch::kInt64).to(device);
  step.prefix_ended = ended(cache.prefix_lengths, cache.prefix, device);
  step.tail_ended = ended(seen, step.longest, device);
}

/// Products of matrices instead of SDPA: for one query row in bfloat16 that is an order of magnitude faster. The samples of a prompt
/// read its prefix together, as rows of one query matrix; so sequences that are not asked for have a row of zeros.
torch::Tensor attend_with_operators(const torch::Tensor& rows_of_q,
                                    const torch::Tensor& k,
                                    const torch::Tensor& v,
                                    DecodeStep& step,
                                    const KvCache& cache,
                                    KvCache::Layer& layer) {
  if (!step.index.defined()) look_up_places(step, cache, rows_of_q.device());
  const auto places = static_cast<int64_t>(cache.prefix_lengths.size());
  const int64_t samples = cache.samples;
  const int64_t kv_heads = layer.tail_key.size(1);
  const int64_t head_dim = rows_of_q.size(2);
  const int64_t group = rows_of_q.size(1) / kv_heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  const int64_t longest = step.longest;
  using torch::indexing::Slice;
  layer.tail_key.index_put_({step.index, Slice(), step.newest}, k);
  layer.tail_value.index_put_({step.index, Slice(), step.newest}, v);
  const torch::Tensor q =
      torch::zeros({places * samples, rows_of_q.size(1), head_dim}, rows_of_q.options()).index_copy_(0, step.index, rows_of_q);

  constexpr double kNever = -std::numeric_limits<double>::infinity();
  const torch::Tensor by_prompt = q.reshape({places, samples, kv_heads, group, head_dim})
                                      .transpose(1, 2)
                                      .reshape({places, kv_heads, samples * group, head_dim});
  const torch::Tensor prefix_scores =
      torch::matmul(by_prompt, layer.prefix_key.transpose(2, 3))
          .to(torch::kFloat32)
          .mul_(scale)
          .masked_fill_(step.prefix_ended.view({places, 1, 1, cache.prefix}), kNever);
  const torch::Tensor by_sequence = q.reshape({places * samples, kv_heads, group, head_dim});
  const torch::Tensor tail_scores = torch::matmul(by_sequence, layer.tail_key.narrow(2, 0, longest).transpose(2, 3))
                                        .to(torch::kFloat32)
                                        .mul_(scale)
                                        .masked_fill_(step.tail_ended.view({-1, 1, 1, longest}), kNever);

  const torch::Tensor own_prefix = prefix_scores.view({places, kv_heads, samples, group, cache.prefix})
                                       .transpose(1, 2)
                                       .reshape({places * samples, kv_heads, group, cache.prefix});
  const torch::Tensor weights =
      torch::softmax(torch::cat({own_prefix, tail_scores}, 3), 3).to(layer.prefix_value.scalar_type());
  const torch::Tensor prefix_weights = weights.narrow(3, 0, cache.prefix)
                                           .reshape({places, samples, kv_heads, group, cache.prefix})
                                           .transpose(1, 2)
                                           .reshape({places, kv_heads, samples * group, cache.prefix});
  const torch::Tensor from_prefix = torch::matmul(prefix_weights, layer.prefix_value)
                                        .view({places, kv_heads, samples, group, head_dim})
                                        .transpose(1, 2)
                                        .reshape({places * samples, kv_heads * group * head_dim});
  const torch::Tensor from_tail =
      torch::matmul(weights.narrow(3, cache.prefix, longest), layer.tail_value.narrow(2, 0, longest))
          .reshape({places * samples, kv_heads * group * head_dim});
  return (from_prefix + from_tail).index_select(0, step.index);
}

}  // namespace

torch::Tensor decode_attention(const torch::Tensor& q,
                               const torch::Tensor& k,
                               const torch::Tensor& v,
                               DecodeStep& step,
                               const KvCache& cache,
                               KvCache::Layer& layer) {
  return cpu_kernels_take(q) ? attend_with_kernel(q, k, v, step.sequences, cache, layer)
                             : attend_with_operators(q, k, v, step, cache, layer);
}

}  // namespace pocketvlm
