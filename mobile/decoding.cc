#include "mobile/decoding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kCacheStep = 256;  // tokens by which the cache grows
constexpr std::int64_t kQueryTile = 16;

}  // namespace

MobileKvCache::MobileKvCache(const MobileLanguageParams& params, std::int64_t context, bool half)
    : layers_(params.num_layers),
      heads_(params.num_kv_heads),
      head_dim_(params.head_dim),
      context_(context),
      element_(half ? 2 : 4),
      half_(half),
      keys_(static_cast<std::size_t>(params.num_layers)),
      values_(static_cast<std::size_t>(params.num_layers)) {}

void MobileKvCache::reserve(std::int64_t tokens) {
  if (tokens <= capacity_) return;
  PV_CHECK(tokens <= context_,
           "{} tokens exceed the context of {}; shorten the conversation or raise --context",
           tokens,
           context_);
  const std::int64_t old = capacity_;
  capacity_ = std::min(context_, (tokens + kCacheStep - 1) / kCacheStep * kCacheStep);
  const auto size = static_cast<std::size_t>(heads_ * head_dim_ * capacity_ * element_);
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    const std::vector<std::byte> old_keys = std::exchange(keys_[at], std::vector<std::byte>(size));
    const std::vector<std::byte> old_values =
        std::exchange(values_[at], std::vector<std::byte>(size));
    if (old == 0) continue;
    const std::int64_t old_row = old * element_;
    for (std::int64_t head = 0; head < heads_; ++head) {
      std::memcpy(key_at(layer, head, 0),
                  old_keys.data() + head * head_dim_ * old_row,
                  static_cast<std::size_t>(head_dim_ * old_row));
      for (std::int64_t c = 0; c < head_dim_; ++c) {
        std::memcpy(value_at(layer, head, c, 0),
                    old_values.data() + (head * head_dim_ + c) * old_row,
                    static_cast<std::size_t>(old_row));
      }
    }
  }
}

std::byte* MobileKvCache::key_at(std::int64_t layer, std::int64_t head, std::int64_t position) {
  return keys_[static_cast<std::size_t>(layer)].data() +
         (head * capacity_ + position) * head_dim_ * element_;
}

std::byte* MobileKvCache::value_at(std::int64_t layer,
                                   std::int64_t head,
                                   std::int64_t channel,
                                   std::int64_t position) {
  return values_[static_cast<std::size_t>(layer)].data() +
         ((head * head_dim_ + channel) * capacity_ + position) * element_;
}

void MobileKvCache::store(std::int64_t layer,
                          std::int64_t position,
                          const float* key,
                          const float* value) {
  for (std::int64_t head = 0; head < heads_; ++head) {
    std::byte* row = key_at(layer, head, position);
    for (std::int64_t c = 0; c < head_dim_; ++c) {
      const float k = key[head * head_dim_ + c];
      const float v = value[head * head_dim_ + c];
      std::byte* place = value_at(layer, head, c, position);
      if (half_) {
        const std::uint16_t half_key = float_to_half(k);
        const std::uint16_t half_value = float_to_half(v);
        std::memcpy(row + 2 * c, &half_key, 2);
        std::memcpy(place, &half_value, 2);
      } else {
        std::memcpy(row + 4 * c, &k, 4);
        std::memcpy(place, &v, 4);
      }
    }
  }
}

WeightRows MobileKvCache::keys(std::int64_t layer, std::int64_t head, std::int64_t count) const {
  auto* self = const_cast<MobileKvCache*>(this);
  return {self->key_at(layer, head, 0), head_dim_ * element_, count};
}

WeightRows MobileKvCache::values(std::int64_t layer, std::int64_t head) const {
  auto* self = const_cast<MobileKvCache*>(this);
  return {self->value_at(layer, head, 0, 0), capacity_ * element_, head_dim_};
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

void MobileDecoder::embed(std::int32_t id, float* out) const {
  PV_CHECK(id >= 0 && id < params_.vocab,
           "token id {} is outside the vocabulary of {}",
           id,
           params_.vocab);
  const std::int64_t bytes = row_bytes(embeddings_.type, params_.hidden);
  dequantize_row(embeddings_.type, embeddings_.bytes.data() + id * bytes, params_.hidden, out);
  for (std::int64_t h = 0; h < params_.hidden; ++h) out[h] *= params_.scale_embeddings;
}

void MobileDecoder::rotate(std::int64_t position, std::int64_t heads, float* x) const {
  const std::int64_t half = params_.head_dim / 2;
  const float place = static_cast<float>(static_cast<double>(position) / params_.rope_scaling);
  // Pairs lie side by side (llama, minicpm) or half a head apart (qwen2).
  const std::int64_t step = params_.rope_pairs ? 2 : 1;
  const std::int64_t partner = params_.rope_pairs ? 1 : half;
  for (std::int64_t i = 0; i < half; ++i) {
    const float angle = place * inverse_frequencies_[static_cast<std::size_t>(i)];
    const float cosine = std::cos(angle);
    const float sine = std::sin(angle);
    for (std::int64_t head = 0; head < heads; ++head) {
      float* a = x + head * params_.head_dim + i * step;
      float* b = a + partner;
      const float first = *a * cosine - *b * sine;
      *b = *b * cosine + *a * sine;
      *a = first;
    }
  }
}

void MobileDecoder::attend(const Compute& compute,
                           const MobileKvCache& cache,
                           std::int64_t layer,
                           std::int64_t position,
                           std::int64_t tokens,
                           const float* q,
                           float* out) const {
  const std::int64_t head_dim = params_.head_dim;
  const std::int64_t width = params_.num_heads * head_dim;
  const std::int64_t group = params_.num_heads / params_.num_kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  const MatmulFunction matmul =
      cache.half() ? compute.kernels.matmul_f16 : compute.kernels.matmul_f32;
  const auto run = [&](std::int64_t kv_head,
                       std::int64_t first,
                       MatmulInput input,
                       std::int64_t y_stride,
                       float* target) {
    // Row t of the tile sees first_seen(t) keys; in decoding all rows are heads of one token.
    const std::int64_t visible = tokens == 1 ? position + 1 : position + first + input.tokens;
    std::vector<float> scores(static_cast<std::size_t>(input.tokens * visible));
    matmul(cache.keys(layer, kv_head, visible), input, scores.data(), visible);
    for (std::int64_t t = 0; t < input.tokens; ++t) {
      float* row = &scores[static_cast<std::size_t>(t * visible)];
      const std::int64_t seen = tokens == 1 ? visible : position + first + t + 1;
      compute.kernels.softmax(row, seen, scale);
      std::fill(row + seen, row + visible, 0.0F);
    }
    input.columns = visible;
    input.values = scores.data();
    input.stride = visible;
    matmul(cache.values(layer, kv_head), input, target, y_stride);
  };
  if (tokens == 1) {
    compute.pool.for_pieces(params_.num_kv_heads, 1, [&](std::int64_t kv_head, std::int64_t) {
      MatmulInput input;
      input.tokens = group;
      input.columns = head_dim;
      input.values = q + kv_head * group * head_dim;
      input.stride = head_dim;
      run(kv_head, 0, input, head_dim, out + kv_head * group * head_dim);
    });
    return;
  }
  const std::int64_t tiles = (tokens + kQueryTile - 1) / kQueryTile;
  compute.pool.for_pieces(params_.num_heads * tiles, 1, [&](std::int64_t piece, std::int64_t) {
    const std::int64_t head = piece / tiles;
    const std::int64_t first = piece % tiles * kQueryTile;
    MatmulInput input;
    input.tokens = std::min(kQueryTile, tokens - first);
    input.columns = head_dim;
    input.values = q + first * width + head * head_dim;
    input.stride = width;
    run(head / group, first, input, width, out + first * width + head * head_dim);
  });
}

void MobileDecoder::forward(const Compute& compute,
                            MobileKvCache& cache,
                            std::int64_t position,
                            std::vector<float>& x) const {
  const std::int64_t hidden = params_.hidden;
  const auto tokens = static_cast<std::int64_t>(x.size()) / hidden;
  const std::int64_t q_width = params_.num_heads * params_.head_dim;
  const std::int64_t kv_width = params_.num_kv_heads * params_.head_dim;
  const auto rows = [tokens](std::int64_t width) {
    return std::vector<float>(static_cast<std::size_t>(tokens * width));
  };
  cache.reserve(position + tokens);
  std::vector<float> normed = rows(hidden);
  std::vector<float> q = rows(q_width);
  std::vector<float> k = rows(kv_width);
  std::vector<float> v = rows(kv_width);
  std::vector<float> mixed = rows(q_width);
  std::vector<float> branch = rows(hidden);
  std::vector<float> gate = rows(params_.ffn);
  std::vector<float> up = rows(params_.ffn);
  const auto add_branch = [&] {
    compute.kernels.add_scaled(branch.data(), params_.scale_residual, tokens * hidden, x.data());
  };
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const auto number = static_cast<std::int64_t>(index);
    layer.attention_norm.forward(compute, x.data(), tokens, normed.data());
    {
      Activations input(compute, normed.data(), tokens, hidden);
      layer.q.forward(compute, input, q.data(), q_width);
      layer.k.forward(compute, input, k.data(), kv_width);
      layer.v.forward(compute, input, v.data(), kv_width);
    }
    compute.pool.for_pieces(tokens, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        rotate(position + t, params_.num_heads, &q[static_cast<std::size_t>(t * q_width)]);
        rotate(position + t, params_.num_kv_heads, &k[static_cast<std::size_t>(t * kv_width)]);
        cache.store(number,
                    position + t,
                    &k[static_cast<std::size_t>(t * kv_width)],
                    &v[static_cast<std::size_t>(t * kv_width)]);
      }
    });
    attend(compute, cache, number, position, tokens, q.data(), mixed.data());
    {
      Activations input(compute, mixed.data(), tokens, q_width);
      layer.out.forward(compute, input, branch.data(), hidden);
    }
    add_branch();
    layer.ffn_norm.forward(compute, x.data(), tokens, normed.data());
    {
      Activations input(compute, normed.data(), tokens, hidden);
      layer.gate.forward(compute, input, gate.data(), params_.ffn);
      layer.up.forward(compute, input, up.data(), params_.ffn);
    }
    compute.pool.for_pieces(
        tokens * params_.ffn, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
          compute.kernels.silu_multiply(&gate[static_cast<std::size_t>(begin)],
                                        &up[static_cast<std::size_t>(begin)],
                                        end - begin);
        });
    {
      Activations input(compute, gate.data(), tokens, params_.ffn);
      layer.down.forward(compute, input, branch.data(), hidden);
    }
    add_branch();
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
  return output_.forward(compute, normed.data(), tokens);
}

}  // namespace pocketvlm
