#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mobile/linear.h"
#include "mobile/model.h"

namespace pocketvlm {

/// Keys and values of the tokens seen so far. Keys lie row after row, values transposed, so that
/// both attention products run along memory. Grows as needed, up to `context` tokens.
class MobileKvCache {
 public:
  MobileKvCache() = default;
  /// `half`: F16 storage, else F32.
  MobileKvCache(const MobileLanguageParams& params, std::int64_t context, bool half);

  std::int64_t context() const { return context_; }
  bool half() const { return half_; }
  /// Makes room for `tokens` tokens, keeping what is there.
  void reserve(std::int64_t tokens);
  /// Stores one token's keys and values [kv_heads * head_dim] at `position`; thread-safe for
  /// different positions.
  void store(std::int64_t layer, std::int64_t position, const float* key, const float* value);
  /// [capacity, head_dim] of one head, and its transposed values [head_dim, capacity].
  WeightRows keys(std::int64_t layer, std::int64_t head, std::int64_t count) const;
  WeightRows values(std::int64_t layer, std::int64_t head) const;

 private:
  std::byte* key_at(std::int64_t layer, std::int64_t head, std::int64_t position);
  std::byte* value_at(std::int64_t layer,
                      std::int64_t head,
                      std::int64_t channel,
                      std::int64_t position);

  std::int64_t layers_ = 0;
  std::int64_t heads_ = 0;
  std::int64_t head_dim_ = 0;
  std::int64_t context_ = 0;
  std::int64_t capacity_ = 0;
  std::int64_t element_ = 4;  // bytes
  bool half_ = false;
  std::vector<std::vector<std::byte>> keys_;  // a layer each
  std::vector<std::vector<std::byte>> values_;
};

/// LLaMA / Qwen2 / MiniCPM decoder with the weights of a language file, which stay in the mapped
/// file.
class MobileDecoder {
 public:
  MobileDecoder(const GgufFile& file, const MobileLanguageParams& params);

  /// Rows of the embedding table times scale_embeddings, appended to `out`.
  void embed(std::int32_t id, float* out) const;

  /// Runs tokens that follow the `position` tokens in the cache; they are added to it.
  ///   x  [tokens, hidden] embeddings; becomes the output of the last block, before the final norm
  void forward(const Compute& compute,
               MobileKvCache& cache,
               std::int64_t position,
               std::vector<float>& x) const;

  /// Final norm and output layer: logits [tokens, vocab] of x [tokens, hidden].
  std::vector<float> logits(const Compute& compute, const float* x, std::int64_t tokens) const;

  /// All weight matrices are float types (then an F32 cache keeps the trainer's precision).
  bool all_float() const;
  const MobileLanguageParams& params() const { return params_; }

 private:
  struct Layer {
    MobileNorm attention_norm;
    MobileLinear q, k, v, out;
    MobileNorm ffn_norm;
    MobileLinear gate, up, down;
  };
  void rotate(std::int64_t position, std::int64_t heads, float* x) const;
  void attend(const Compute& compute,
              const MobileKvCache& cache,
              std::int64_t layer,
              std::int64_t position,
              std::int64_t tokens,
              const float* q,
              float* out) const;

  const GgufFile& file_;
  MobileLanguageParams params_;
  const GgufTensor& embeddings_;
  std::vector<float> inverse_frequencies_;  // [head_dim / 2]
  std::vector<Layer> layers_;
  MobileNorm final_norm_;
  MobileLinear output_;
};

}  // namespace pocketvlm
