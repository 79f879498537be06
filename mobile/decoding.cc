#include "mobile/decoding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kCacheStep = 64;  // tokens by which the cache grows
// Whole tiles of the vector kernels: six or sixteen queries.
constexpr std::int64_t kQueryTile = 48;
// Queries that are worth laying out keys and values for, and those that share one layout.
constexpr std::int64_t kCausalTokens = 16;
constexpr std::int64_t kCausalQueries = 256;
// Floats of a piece of gate and up, which stay in the second-level cache.
constexpr std::int64_t kFeedForwardFloats = 1 << 16;

// The int8 form of a tile's queries where the keys are quantized; `input` is pointed at it.
class QuantizedQueries {
 public:
  QuantizedQueries(const Kernels& kernels, GgmlType type, MatmulInput& input) {
    if (!needs_quantized_input(type)) return;
    const std::int64_t columns = input.columns;
    const auto size = static_cast<std::size_t>(input.tokens * columns);
    quants_.resize(size);
    scales_.resize(size / 32);
    sums16_.resize(size / 16);
    sums32_.resize(size / 32);
    for (std::int64_t t = 0; t < input.tokens; ++t) {
      const std::int64_t at = t * columns;
      kernels.quantize(input.values + t * input.stride,
                       columns,
                       {&quants_[static_cast<std::size_t>(at)],
                        &scales_[static_cast<std::size_t>(at / 32)],
                        &sums16_[static_cast<std::size_t>(at / 16)],
                        &sums32_[static_cast<std::size_t>(at / 32)]});
    }
    input.quants = quants_.data();
    input.scales = scales_.data();
    input.sums16 = sums16_.data();
    input.sums32 = sums32_.data();
  }

 private:
  std::vector<std::int8_t> quants_;
  std::vector<float> scales_;
  std::vector<float> sums16_;
  std::vector<float> sums32_;
};

}  // namespace

MobileKvCache::MobileKvCache(const MobileLanguageParams& params,
                             std::int64_t context,
                             GgmlType type)
    : layers_(params.num_layers),
      heads_(params.num_kv_heads),
      head_dim_(params.head_dim),
      context_(context),
      type_(type),
      keys_(static_cast<std::size_t>(params.num_layers)),
      values_(static_cast<std::size_t>(params.num_layers)) {
  PV_CHECK(params.head_dim % type_info(type).block == 0,
           "a {} cache needs attention heads in blocks of {}, but this model's have {} channels; "
           "choose f16",
           type_info(type).name,
           type_info(type).block,
           params.head_dim);
  row_bytes_ = row_bytes(type, params.head_dim);
}

void MobileKvCache::reserve(std::int64_t tokens) {
  if (tokens <= capacity_) return;
  PV_CHECK(tokens <= context_,
           "{} tokens exceed the context of {}; shorten the conversation or raise --context",
           tokens,
           context_);
  const std::int64_t old = capacity_;
  capacity_ = std::min(context_, (tokens + kCacheStep - 1) / kCacheStep * kCacheStep);
  try {
    for (std::int64_t layer = 0; layer < layers_; ++layer) grow(layer, old);
  } catch (const std::bad_alloc&) {
    // Layers of different sizes are of no use.
    capacity_ = 0;
    for (Layers* layers : {&keys_, &values_}) layers->assign(keys_.size(), {});
    throw;
  }
}

// Moves one layer from `old` tokens to capacity_.
void MobileKvCache::grow(std::int64_t layer, std::int64_t old) {
  const auto at = static_cast<std::size_t>(layer);
  const auto size = static_cast<std::size_t>(heads_ * capacity_ * row_bytes_);
  std::vector<std::byte> new_keys(size);
  std::vector<std::byte> new_values(size);
  const std::vector<std::byte> old_keys = std::exchange(keys_[at], std::move(new_keys));
  const std::vector<std::byte> old_values = std::exchange(values_[at], std::move(new_values));
  if (old == 0) return;
  const std::int64_t old_head = old * row_bytes_;
  const std::int64_t old_channel = old_head / head_dim_;
  for (std::int64_t head = 0; head < heads_; ++head) {
    const auto copy = [&](const std::vector<std::byte>& from, std::byte* to) {
      std::memcpy(to, from.data() + head * old_head, static_cast<std::size_t>(old_head));
    };
    copy(old_keys, row_at(keys_, layer, head, 0));
    if (type_ == GgmlType::kQ8_0) {
      copy(old_values, row_at(values_, layer, head, 0));
      continue;
    }
    for (std::int64_t c = 0; c < head_dim_; ++c) {
      std::memcpy(channel_at(layer, head, c),
                  old_values.data() + head * old_head + c * old_channel,
                  static_cast<std::size_t>(old_channel));
    }
  }
}

std::byte* MobileKvCache::row_at(Layers& layers,
                                 std::int64_t layer,
                                 std::int64_t head,
                                 std::int64_t position) const {
  return layers[static_cast<std::size_t>(layer)].data() +
         (head * capacity_ + position) * row_bytes_;
}

std::byte* MobileKvCache::channel_at(std::int64_t layer, std::int64_t head, std::int64_t channel) {
  return values_[static_cast<std::size_t>(layer)].data() +
         (head * head_dim_ + channel) * capacity_ * (row_bytes_ / head_dim_);
}

void MobileKvCache::store(const Kernels& kernels,
                          std::int64_t layer,
                          std::int64_t position,
                          std::int64_t count,
                          const float* keys,
                          const float* values) {
  const std::int64_t width = heads_ * head_dim_;
  const auto store_row = [&](const float* row, std::byte* target) {
    if (type_ == GgmlType::kF16)
      kernels.to_half(row, head_dim_, reinterpret_cast<std::uint16_t*>(target));
    else
      quantize_row(type_, row, head_dim_, target);
  };
  std::vector<std::byte> rows(static_cast<std::size_t>(count * row_bytes_));
  for (std::int64_t head = 0; head < heads_; ++head) {
    const std::int64_t at = head * head_dim_;
    for (std::int64_t t = 0; t < count; ++t) {
      store_row(keys + t * width + at, row_at(keys_, layer, head, position + t));
      store_row(values + t * width + at,
                type_ == GgmlType::kQ8_0 ? row_at(values_, layer, head, position + t)
                                         : rows.data() + t * row_bytes_);
    }
    if (type_ != GgmlType::kQ8_0) store_values(layer, head, position, count, rows.data());
  }
}

// F32 and F16: rows [count, head_dim] of one head to their places along each channel.
void MobileKvCache::store_values(std::int64_t layer,
                                 std::int64_t head,
                                 std::int64_t position,
                                 std::int64_t count,
                                 const std::byte* rows) {
  const auto scatter = [&](auto element) {
    const auto* from = reinterpret_cast<const decltype(element)*>(rows);
    auto* channel = reinterpret_cast<decltype(element)*>(channel_at(layer, head, 0)) + position;
    for (std::int64_t c = 0; c < head_dim_; ++c, channel += capacity_) {
      for (std::int64_t t = 0; t < count; ++t) channel[t] = from[t * head_dim_ + c];
    }
  };
  if (type_ == GgmlType::kF16)
    scatter(std::uint16_t{});
  else
    scatter(std::uint32_t{});
}

WeightRows MobileKvCache::keys(std::int64_t layer, std::int64_t head, std::int64_t count) const {
  auto* self = const_cast<MobileKvCache*>(this);
  return {row_at(self->keys_, layer, head, 0), row_bytes_, count};
}

WeightRows MobileKvCache::transposed_values(std::int64_t layer, std::int64_t head) const {
  auto* self = const_cast<MobileKvCache*>(this);
  return {self->channel_at(layer, head, 0), capacity_ * (row_bytes_ / head_dim_), head_dim_};
}

WeightRows MobileKvCache::value_rows(std::int64_t layer,
                                     std::int64_t head,
                                     std::int64_t count) const {
  auto* self = const_cast<MobileKvCache*>(this);
  return {row_at(self->values_, layer, head, 0), row_bytes_, count};
}

MobileDecoder::MobileDecoder(const GgufFile& file, const MobileLanguageParams& params)
    : file_(file),
      params_(params),
      embeddings_(file.tensor("token_embd.weight", {params.hidden, params.vocab})) {
  const std::int64_t hidden = params.hidden;
  const std::int64_t q_width = params.num_heads * params.head_dim;
  const std::int64_t kv_width = params.num_kv_heads * params.head_dim;
  for (std::int64_t i = 0; i < params.num_layers; ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    const bool bias = file.find(prefix + "attn_q.bias") != nullptr;
    Layer layer;
    layer.attention_norm = MobileNorm(file, prefix + "attn_norm", hidden, params.norm_eps, false);
    layer.q = MobileLinear(file, prefix + "attn_q", hidden, q_width, bias);
    layer.k = MobileLinear(file, prefix + "attn_k", hidden, kv_width, bias);
    layer.v = MobileLinear(file, prefix + "attn_v", hidden, kv_width, bias);
    layer.out = MobileLinear(file, prefix + "attn_output", q_width, hidden, false);
    layer.ffn_norm = MobileNorm(file, prefix + "ffn_norm", hidden, params.norm_eps, false);
    layer.gate = MobileLinear(file, prefix + "ffn_gate", hidden, params.ffn, false);
    layer.up = MobileLinear(file, prefix + "ffn_up", hidden, params.ffn, false);
    layer.down = MobileLinear(file, prefix + "ffn_down", params.ffn, hidden, false);
    layers_.push_back(std::move(layer));
  }
  final_norm_ = MobileNorm(file, "output_norm", hidden, params.norm_eps, false);
  output_ = MobileLinear(
      file, params.tied_embeddings ? "token_embd" : "output", hidden, params.vocab, false);

  // float32 throughout, as the trainer computes its frequencies.
  std::vector<float> divisors(static_cast<std::size_t>(params.head_dim / 2), 1.0F);
  if (file.find("rope_freqs.weight") != nullptr)
    divisors = read_vector(file, "rope_freqs.weight", params.head_dim / 2);
  for (std::int64_t i = 0; i < params.head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(params.head_dim);
    inverse_frequencies_.push_back(1.0F /
                                   std::pow(static_cast<float>(params.rope_theta), exponent) /
                                   divisors[static_cast<std::size_t>(i)]);
  }
}

bool MobileDecoder::all_float() const {
  bool all = !needs_quantized_input(output_.type());
  for (const Layer& layer : layers_) {
    for (const MobileLinear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.out, &layer.gate, &layer.up, &layer.down}) {
      all = all && !needs_quantized_input(linear->type());
    }
  }
  return all;
}

std::vector<NamedLinear> MobileDecoder::packable(const Kernels& kernels) {
  std::vector<NamedLinear> found;
  const auto add = [&](const std::string& name, MobileLinear& linear) {
    if (packed_matmul_for(kernels, linear.type(), linear.in()) != nullptr)
      found.push_back({name + ".weight", &linear});
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    Layer& layer = layers_[i];
    add(prefix + "attn_q", layer.q);
    add(prefix + "attn_k", layer.k);
    add(prefix + "attn_v", layer.v);
    add(prefix + "attn_output", layer.out);
    add(prefix + "ffn_gate", layer.gate);
    add(prefix + "ffn_up", layer.up);
    add(prefix + "ffn_down", layer.down);
  }
  add(params_.tied_embeddings ? "token_embd" : "output", output_);
  return found;
}

void MobileDecoder::embed(std::int32_t id, float* out) const {
  PV_CHECK(id >= 0 && id < params_.vocab,
           "token id {} is outside the vocabulary of {}",
           id,
           params_.vocab);
  const std::int64_t bytes = row_bytes(embeddings_.type, params_.hidden);
  dequantize_row(embeddings_.type, embeddings_.bytes.data() + id * bytes, params_.hidden, out);
  for (std::int64_t h = 0; h < params_.hidden; ++h) out[h] *= params_.scale_embeddings;
}

void MobileDecoder::release_embeddings() const {
  if (params_.tied_embeddings && output_.reads_file()) return;
  file_.file().release(static_cast<std::size_t>(embeddings_.bytes.data() - file_.file().data()),
                       embeddings_.bytes.size());
}

// Cosines, then sines of the angles of each token: [tokens, 2, head_dim / 2].
std::vector<float> MobileDecoder::rotations(std::int64_t position, std::int64_t tokens) const {
  std::vector<float> angles;
  angles.reserve(static_cast<std::size_t>(tokens * params_.head_dim));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float place =
        static_cast<float>(static_cast<double>(position + t) / params_.rope_scaling);
    for (const float frequency : inverse_frequencies_)
      angles.push_back(std::cos(place * frequency));
    for (const float frequency : inverse_frequencies_)
      angles.push_back(std::sin(place * frequency));
  }
  return angles;
}

// Heads of one token.
void MobileDecoder::rotate(const float* rotation, std::int64_t heads, float* x) const {
  const std::int64_t half = params_.head_dim / 2;
  // Pairs lie side by side (llama, minicpm) or half a head apart (qwen2).
  const std::int64_t step = params_.rope_pairs ? 2 : 1;
  const std::int64_t partner = params_.rope_pairs ? 1 : half;
  for (std::int64_t head = 0; head < heads; ++head, x += params_.head_dim) {
    for (std::int64_t i = 0; i < half; ++i) {
      float* a = x + i * step;
      float* b = a + partner;
      const float cosine = rotation[i];
      const float sine = rotation[half + i];
      const float first = *a * cosine - *b * sine;
      *b = *b * cosine + *a * sine;
      *a = first;
    }
  }
}

// Some queries of one key-value head, and how many keys each of them sees.
struct MobileDecoder::QueryTile {
  std::int64_t kv_head;
  MatmulInput queries;
  std::int64_t first_seen;  // keys that the first query sees
  std::int64_t more_seen;   // more for each one after it: 1 along a prompt, 0 across heads
  float* out;               // may be where the queries are
  std::int64_t out_stride;

  std::int64_t seen(std::int64_t query) const { return first_seen + query * more_seen; }
};

void MobileDecoder::attend_tile(const Compute& compute,
                                const MobileKvCache& cache,
                                std::int64_t layer,
                                const QueryTile& tile) const {
  const std::int64_t head_dim = params_.head_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  const MatmulFunction matmul = matmul_for(compute.kernels, cache.type());
  MatmulInput input = tile.queries;
  const std::int64_t visible = tile.seen(input.tokens - 1);
  const QuantizedQueries quantized(compute.kernels, cache.type(), input);
  std::vector<float> scores(static_cast<std::size_t>(input.tokens * visible));
  matmul(cache.keys(layer, tile.kv_head, visible), input, scores.data(), visible);
  for (std::int64_t t = 0; t < input.tokens; ++t) {
    float* row = &scores[static_cast<std::size_t>(t * visible)];
    compute.kernels.softmax(row, tile.seen(t), scale);
    std::fill(row + tile.seen(t), row + visible, 0.0F);
  }
  if (cache.type() != GgmlType::kQ8_0) {
    input.columns = visible;
    input.values = scores.data();
    input.stride = visible;
    matmul(cache.transposed_values(layer, tile.kv_head), input, tile.out, tile.out_stride);
    return;
  }
  for (std::int64_t t = 0; t < input.tokens; ++t)
    std::fill_n(tile.out + t * tile.out_stride, head_dim, 0.0F);
  const WeightRows values = cache.value_rows(layer, tile.kv_head, visible);
  std::vector<float> value(static_cast<std::size_t>(head_dim));
  for (std::int64_t k = 0; k < visible; ++k) {
    const auto* row = static_cast<const std::byte*>(values.data) + k * values.row_bytes;
    dequantize_row(cache.type(), row, head_dim, value.data());
    for (std::int64_t t = 0; t < input.tokens; ++t) {
      const float weight = scores[static_cast<std::size_t>(t * visible + k)];
      if (weight == 0.0F) continue;
      compute.kernels.add_scaled(value.data(), weight, head_dim, tile.out + t * tile.out_stride);
    }
  }
}

void MobileDecoder::attend_causal(const Compute& compute,
                                  const MobileKvCache& cache,
                                  std::int64_t layer,
                                  const QueryTile& tile) const {
  const std::int64_t tokens = tile.queries.tokens;
  const WeightRows keys = cache.keys(layer, tile.kv_head, tile.seen(tokens - 1));
  const WeightRows values = cache.transposed_values(layer, tile.kv_head);
  compute.kernels.attend_causal(
      {.q = tile.queries.values,
       .out = tile.out,
       .stride = tile.out_stride,
       .queries = tokens,
       .first_seen = tile.first_seen,
       .keys = static_cast<const std::uint16_t*>(keys.data),
       .values = static_cast<const std::uint16_t*>(values.data),
       .value_stride = values.row_bytes / 2,
       .head_dim = params_.head_dim,
       .scale = 1.0F / std::sqrt(static_cast<float>(params_.head_dim))});
}

void MobileDecoder::attend(const Compute& compute,
                           const MobileKvCache& cache,
                           std::int64_t layer,
                           std::int64_t position,
                           std::int64_t tokens,
                           float* q) const {
  const std::int64_t head_dim = params_.head_dim;
  const std::int64_t width = params_.num_heads * head_dim;
  const std::int64_t group = params_.num_heads / params_.num_kv_heads;
  MatmulInput queries;
  queries.columns = head_dim;
  if (tokens == 1) {
    // The heads that share a key-value head are the queries of one tile.
    compute.pool.for_pieces(params_.num_kv_heads, 1, [&](std::int64_t kv_head, std::int64_t) {
      MatmulInput heads = queries;
      heads.tokens = group;
      heads.values = q + kv_head * group * head_dim;
      heads.stride = head_dim;
      float* out = q + kv_head * group * head_dim;
      attend_tile(compute, cache, layer, {kv_head, heads, position + 1, 0, out, head_dim});
    });
    return;
  }
  const bool causal = cache.type() == GgmlType::kF16 &&
                      compute.kernels.attend_causal != nullptr && tokens >= kCausalTokens;
  const std::int64_t size = causal ? kCausalQueries : kQueryTile;
  const std::int64_t tiles = (tokens + size - 1) / size;
  compute.pool.for_pieces(params_.num_heads * tiles, 1, [&](std::int64_t piece, std::int64_t) {
    const std::int64_t head = piece / tiles;
    const std::int64_t first = piece % tiles * size;
    const std::int64_t at = first * width + head * head_dim;
    MatmulInput rows = queries;
    rows.tokens = std::min(size, tokens - first);
    rows.values = q + at;
    rows.stride = width;
    const QueryTile tile = {head / group, rows, position + first + 1, 1, q + at, width};
    if (causal)
      attend_causal(compute, cache, layer, tile);
    else
      attend_tile(compute, cache, layer, tile);
  });
}

// Gate, up and their product take a few columns at a time, so that of a prompt only the form
// that `down` reads is ever whole.
void MobileDecoder::feed_forward(const Compute& compute,
                                 std::int64_t number,
                                 Activations& input,
                                 Activations& gated,
                                 float* out) const {
  const Layer& layer = layers_[static_cast<std::size_t>(number)];
  const std::int64_t tokens = input.tokens();
  constexpr std::int64_t kGroup = MobileLinear::kRowGroup;
  const std::int64_t cached = std::max(kGroup, kFeedForwardFloats / 2 / tokens / kGroup * kGroup);
  layer.gate.prepare(compute, input);
  layer.up.prepare(compute, input);
  gated.clear();
  compute.pool.for_pieces(
      params_.ffn,
      std::min(cached, layer.gate.rows_per_piece(compute, tokens)),
      [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t columns = end - begin;
        const std::int64_t size = tokens * columns;
        const auto both =
            std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(2 * size));
        float* gate = both.get();
        float* up = gate + size;
        layer.gate.forward_rows(compute, input, begin, end, gate, columns);
        layer.up.forward_rows(compute, input, begin, end, up, columns);
        compute.kernels.silu_multiply(gate, up, size);
        gated.set_columns(begin, columns, gate);
        if (compute.squares != nullptr) {
          const std::string name = fmt::format("blk.{}.ffn_down.weight", number);
          compute.squares->add(name, params_.ffn, begin, columns, gate, tokens);
        }
      });
  layer.down.forward(compute, gated, out, params_.hidden);
}

void MobileDecoder::forward(const Compute& compute,
                            MobileKvCache& cache,
                            std::int64_t position,
                            std::int64_t wanted,
                            std::vector<float>& x) const {
  const std::int64_t hidden = params_.hidden;
  const auto tokens = static_cast<std::int64_t>(x.size()) / hidden;
  const std::int64_t q_width = params_.num_heads * params_.head_dim;
  const std::int64_t kv_width = params_.num_kv_heads * params_.head_dim;
  const auto rows = [tokens](std::int64_t width) {
    return std::vector<float>(static_cast<std::size_t>(tokens * width));
  };
  cache.reserve(position + tokens);
  const std::vector<float> angles = rotations(position, tokens);
  // All layers share the buffers; a branch is written where its input was.
  std::vector<float> normed = rows(hidden);
  std::vector<float> q = rows(q_width);
  std::vector<float> k = rows(kv_width);
  std::vector<float> v = rows(kv_width);
  std::optional<Activations> input;
  std::optional<Activations> gated;
  input.emplace(compute, normed.data(), tokens, hidden);
  const auto add_branch = [&] {
    const auto size = static_cast<std::int64_t>(x.size());
    compute.kernels.add_scaled(normed.data(), params_.scale_residual, size, x.data());
  };
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const auto number = static_cast<std::int64_t>(index);
    const auto observe = [&](const char* matrix, const std::vector<float>& values) {
      if (compute.squares == nullptr) return;
      const auto width = static_cast<std::int64_t>(values.size()) / tokens;
      const std::string name = fmt::format("blk.{}.{}.weight", number, matrix);
      compute.squares->add(name, width, 0, width, values.data(), tokens);
    };
    layer.attention_norm.forward(compute, x.data(), tokens, normed.data());
    observe("attn_q", normed);
    input->read(normed.data(), hidden);
    // Of the last layer most tokens leave keys and values alone.
    const std::int64_t asked = index + 1 == layers_.size() ? wanted : tokens;
    const std::int64_t skipped = tokens - asked;
    if (skipped == 0) {
      MobileLinear::forward_all(
          compute, *input, {{&layer.q, q.data()}, {&layer.k, k.data()}, {&layer.v, v.data()}});
    } else {
      MobileLinear::forward_all(compute, *input, {{&layer.k, k.data()}, {&layer.v, v.data()}});
      x.erase(x.begin(), x.begin() + skipped * hidden);
      input.emplace(compute, normed.data() + skipped * hidden, asked, hidden);
      gated.reset();
      if (asked > 0) layer.q.forward(compute, *input, q.data(), q_width);
    }
    compute.pool.for_pieces(tokens, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const float* rotation = &angles[static_cast<std::size_t>(t * params_.head_dim)];
        if (t >= skipped)
          rotate(rotation, params_.num_heads, &q[static_cast<std::size_t>((t - skipped) * q_width)]);
        rotate(rotation, params_.num_kv_heads, &k[static_cast<std::size_t>(t * kv_width)]);
      }
      cache.store(compute.kernels,
                  number,
                  position + begin,
                  end - begin,
                  &k[static_cast<std::size_t>(begin * kv_width)],
                  &v[static_cast<std::size_t>(begin * kv_width)]);
    });
    if (asked == 0) return;
    attend(compute, cache, number, position + skipped, asked, q.data());
    observe("attn_output", q);
    input->read(q.data(), q_width);
    layer.out.forward(compute, *input, normed.data(), hidden);
    add_branch();
    layer.ffn_norm.forward(compute, x.data(), asked, normed.data());
    observe("ffn_gate", normed);
    input->read(normed.data(), hidden);
    const InputForm form = layer.down.input_form(compute, asked);
    if (!gated || gated->form() != form) gated.emplace(compute, asked, params_.ffn, form);
    feed_forward(compute, number, *input, *gated, normed.data());
    add_branch();
    if (compute.watcher != nullptr) (*compute.watcher)(fmt::format("blk.{}", number), x);
  }
}

std::vector<float> MobileDecoder::logits(const Compute& compute,
                                         const float* x,
                                         std::int64_t tokens) const {
  std::vector<float> normed(static_cast<std::size_t>(tokens * params_.hidden));
  final_norm_.forward(compute, x, tokens, normed.data());
  if (params_.scale_logits != 1.0F) {
    for (float& value : normed) value /= params_.scale_logits;
  }
  if (compute.squares != nullptr) {
    compute.squares->add(params_.tied_embeddings ? "token_embd.weight" : "output.weight",
                         params_.hidden,
                         0,
                         params_.hidden,
                         normed.data(),
                         tokens);
  }
  return output_.forward(compute, normed.data(), tokens);
}

}  // namespace pocketvlm
