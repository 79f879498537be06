#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mobile/linear.h"
#include "mobile/model.h"

namespace pocketvlm {

/// Keys and values of the tokens seen so far. Grows as needed, up to `context` tokens.
///
/// Keys lie row after row. F32 and F16 values are transposed, so that both attention products run
/// along memory; Q8_0 values are rows like the keys, so that a token's block does not depend on the
/// tokens around it.
class MobileKvCache {
 public:
  MobileKvCache() = default;
  /// `type`: kF32, kF16, or kQ8_0, which needs a head_dim in whole blocks of 32 (Error otherwise).
  MobileKvCache(const MobileLanguageParams& params, std::int64_t context, GgmlType type);

  std::int64_t context() const { return context_; }
  GgmlType type() const { return type_; }
  /// Makes room for `tokens` tokens, keeping what is there. When memory runs out the cache is empty
  /// afterwards.
  void reserve(std::int64_t tokens);
  /// Stores keys and values [count, kv_heads * head_dim] of neighbouring tokens; thread-safe for
  /// different tokens.
  void store(const Kernels& kernels,
             std::int64_t layer,
             std::int64_t position,
             std::int64_t count,
             const float* keys,
             const float* values);
  /// The first `count` keys of one head, [count, head_dim].
  WeightRows keys(std::int64_t layer, std::int64_t head, std::int64_t count) const;
  /// F32 and F16: the values of one head, transposed, [head_dim, capacity].
  WeightRows transposed_values(std::int64_t layer, std::int64_t head) const;
  /// Q8_0: the first `count` values of one head, [count, head_dim].
  WeightRows value_rows(std::int64_t layer, std::int64_t head, std::int64_t count) const;

 private:
  using Layers = std::vector<std::vector<std::byte>>;  // a layer each
  void grow(std::int64_t layer, std::int64_t old);
  std::byte* row_at(Layers& layers,
                    std::int64_t layer,
                    std::int64_t head,
                    std::int64_t position) const;
  void store_values(std::int64_t layer,
                    std::int64_t head,
                    std::int64_t position,
                    std::int64_t count,
                    const std::byte* rows);
  std::byte* channel_at(std::int64_t layer, std::int64_t head, std::int64_t channel);

  std::int64_t layers_ = 0;
  std::int64_t heads_ = 0;
  std::int64_t head_dim_ = 0;
  std::int64_t context_ = 0;
  std::int64_t capacity_ = 0;
  std::int64_t row_bytes_ = 0;  // of head_dim elements
  GgmlType type_ = GgmlType::kF32;
  Layers keys_;
  Layers values_;
};

/// LLaMA / Qwen2 / MiniCPM decoder with the weights of a language file, which stay in the mapped
/// file.
class MobileDecoder {
 public:
  MobileDecoder(const GgufFile& file, const MobileLanguageParams& params);

  /// The matrices whose products with these kernels want panels, and their names.
  std::vector<NamedLinear> packable(const Kernels& kernels);

  /// The token's row of the embedding table times scale_embeddings.
  void embed(std::int32_t id, float* out) const;
  /// Drops the pages of the embedding table, of which the system maps many around each row; they
  /// are read again when touched. Not where the output layer reads them, too.
  void release_embeddings() const;

  /// Runs tokens that follow the `position` tokens in the cache; they are added to it.
  ///   x  [tokens, hidden] embeddings; becomes the output of the last block, before the final norm,
  ///      of the last `wanted` tokens: the others' is not computed
  void forward(const Compute& compute,
               MobileKvCache& cache,
               std::int64_t position,
               std::int64_t wanted,
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
  std::vector<float> rotations(std::int64_t position, std::int64_t tokens) const;
  void rotate(const float* rotation, std::int64_t heads, float* x) const;
  struct QueryTile;
  void attend_tile(const Compute& compute,
                   const MobileKvCache& cache,
                   std::int64_t layer,
                   const QueryTile& tile) const;
  /// The same for queries along a prompt, through the kernel for them.
  void attend_causal(const Compute& compute,
                     const MobileKvCache& cache,
                     std::int64_t layer,
                     const QueryTile& tile) const;
  /// q [tokens, heads * head_dim] becomes what the heads see.
  void attend(const Compute& compute,
              const MobileKvCache& cache,
              std::int64_t layer,
              std::int64_t position,
              std::int64_t tokens,
              float* q) const;
  void feed_forward(const Compute& compute,
                    std::int64_t layer,
                    Activations& input,
                    Activations& gated,
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
