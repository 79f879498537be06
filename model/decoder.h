#pragma once

#include "model/config.h"
#include "model/fused_ops.h"
#include "model/layers.h"

namespace pocketvlm {

/// Places for the keys and values of prompts with `samples` sequences each: the prefix of a prompt is stored once and shared by its
/// sequences, each sequence owns its tail. A prompt may be written where another stood. Filled by the decoder; sequence = place *
/// samples + sample.
struct KvCache {
  struct Layer {
    torch::Tensor prefix_key, prefix_value;  // [places, kv_heads, prefix, head_dim]
    torch::Tensor tail_key, tail_value;      // [places * samples, kv_heads, capacity, head_dim]
  };
  std::vector<Layer> layers;
  std::vector<int64_t> prefix_lengths;  // [places], 0: never filled
  std::vector<int64_t> tails;           // [places * samples], tokens of each sequence after its prefix
  int64_t prefix = 0;                   // the longest prompt so far
  int64_t samples = 1;                  // sequences a prompt
  int64_t capacity = 0;                 // of the tails

  KvCache(int64_t places, int64_t samples_per_prompt, int64_t tail_capacity);
  /// Takes prompts of these lengths into `at`, whose tails become empty; their keys and values follow, layer by layer.
  void begin_prompts(const std::vector<int64_t>& at, const std::vector<int64_t>& lengths);
  /// Keys and values [tokens, kv_heads, head_dim] of the prompts in `at`, one after the other.
  void fill_layer(std::size_t layer, const std::vector<int64_t>& at, const torch::Tensor& k, const torch::Tensor& v);
  torch::Tensor next_positions(const std::vector<int64_t>& sequences, torch::Device device) const;  // [sequences] int64
};

/// Segments that continue an earlier one instead of starting anew: the tokens before them are computed once, whatever the number of
/// continuations (answers of a pair, questions about a picture). Attention alone sees each sequence whole. Default: nothing is shared.
struct SharedPrefixes {
  torch::Tensor expand;          // [sum of lengths] int64, the packed token that stands at each place of the whole sequences
  torch::Tensor collapse;        // [tokens] int64, one of the places where each packed token stands
  std::vector<int64_t> lengths;  // of the whole sequences
  std::vector<int64_t> unread;   // of each, leading places that `collapse` never reads
};

/// LLaMA / Qwen2 / MiniCPM decoder.
///   embeddings    [tokens, hidden]
///   position_ids  [tokens] int64
///   rows          [wanted] int64, the tokens whose states are read, or undefined: all. Behind the last attention nothing else
///                 is computed.
///   returns       [tokens or wanted, hidden], after the final norm (and MiniCPM's logit scale)
/// Names: language.embed_tokens.weight, .layers.N.{input_norm, self_attn.{q,k,v,o}_proj, post_attention_norm,
/// mlp.{gate,up,down}_proj}, .norm.weight, .lm_head.weight (absent when tied). Rotary halves are (i, i + head_dim / 2).
class DecoderImpl : public torch::nn::Module {
 public:
  explicit DecoderImpl(const LanguageConfig& config);

  torch::Tensor embed(const torch::Tensor& ids);  // [tokens] -> [tokens, hidden], with scale_embeddings
  torch::Tensor forward(const torch::Tensor& embeddings,
                        const torch::Tensor& position_ids,
                        const std::vector<int64_t>& segment_lengths,
                        const torch::Tensor& rows = {});
  /// The same where segments share prefixes; a continuation's positions go on behind its prefix.
  torch::Tensor forward(const torch::Tensor& embeddings,
                        const torch::Tensor& position_ids,
                        const SharedPrefixes& shared,
                        const torch::Tensor& rows = {});
  const torch::Tensor& output_weight() const;     // [vocab, hidden]: lm_head, or the embedding when tied

  /// Runs prompts packed one after the other and keeps their keys and values in the places `at` of the cache.
  /// embeddings [tokens, hidden] -> the last token of each prompt, [prompts, hidden].
  torch::Tensor prefill_prompts(const torch::Tensor& embeddings,
                                const std::vector<int64_t>& prompt_lengths,
                                KvCache& cache,
                                const std::vector<int64_t>& at);
  /// One more token for each of these sequences (different ones) of the cache. embeddings [sequences, hidden] -> [sequences, hidden].
  torch::Tensor decode(const torch::Tensor& embeddings, KvCache& cache, const std::vector<int64_t>& sequences);

  const LanguageConfig& config() const { return config_; }

 private:
  torch::Tensor finish(const torch::Tensor& x);
  RotaryTable rotary(const torch::Tensor& position_ids) const;

  struct Parts;
  LanguageConfig config_;
  std::shared_ptr<Parts> parts_;
};
TORCH_MODULE(Decoder);

}  // namespace pocketvlm
