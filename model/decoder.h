#pragma once

#include "model/config.h"
#include "model/fused_ops.h"
#include "model/layers.h"

namespace pocketvlm {

/// Keys and values of the tokens seen so far, for prompts with `samples` sequences each: the prefix of a prompt is stored
/// once and shared by its sequences, each sequence owns its tail. Made by the decoder; sequence = prompt * samples + sample.
struct KvCache {
  struct Layer {
    torch::Tensor prefix_key, prefix_value;  // [prompts, kv_heads, prefix, head_dim], zero after a prompt's length
    torch::Tensor tail_key, tail_value;      // [prompts * samples, kv_heads, capacity, head_dim]
  };
  std::vector<Layer> layers;
  std::vector<int64_t> prefix_lengths;  // [prompts]
  int64_t prefix = 0;                   // the longest prompt
  int64_t samples = 1;                  // sequences a prompt
  int64_t tail = 0;                     // tokens every sequence has after its prefix
  int64_t capacity = 0;                 // of the tails

  KvCache() = default;
  KvCache(const std::vector<int64_t>& prompt_lengths, int64_t samples_per_prompt, int64_t tail_capacity);
  /// Keys and values [tokens, kv_heads, head_dim] of all prompts, one after the other.
  void add_layer(const torch::Tensor& k, const torch::Tensor& v);
  /// Keeps these prompts (increasing numbers) with their sequences and drops the others.
  void keep(const std::vector<int64_t>& prompts);
  torch::Tensor next_positions(torch::Device device) const;  // [prompts * samples] int64
  torch::Tensor prefix_mask(torch::Device device) const;     // [prompts, prefix], true on padding; undefined when none
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

  /// Runs prompts packed one after the other and keeps their keys and values as prefixes that `samples` sequences each share.
  /// embeddings [tokens, hidden] -> the last token of each prompt, [prompts, hidden].
  torch::Tensor prefill_prompts(const torch::Tensor& embeddings,
                                const std::vector<int64_t>& prompt_lengths,
                                KvCache& cache,
                                int64_t samples,
                                int64_t capacity);
  /// One more token for each sequence of the cache. embeddings [sequences, hidden] -> [sequences, hidden].
  torch::Tensor decode(const torch::Tensor& embeddings, KvCache& cache);

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
