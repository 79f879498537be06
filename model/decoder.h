#pragma once

#include "model/config.h"
#include "model/layers.h"

namespace pocketvlm {

/// Keys and values of the tokens seen so far, for `batch` sequences that share one prefix: the prefix is stored once, each
/// sequence owns its tail. Made by the decoder.
struct KvCache {
  struct Layer {
    torch::Tensor prefix_key, prefix_value;  // [prefix, kv_heads, head_dim], shared by all sequences
    torch::Tensor tail_key, tail_value;      // [batch, capacity, kv_heads, head_dim]
  };
  std::vector<Layer> layers;
  int64_t prefix = 0;
  int64_t tail = 0;      // tokens every sequence has after the prefix
  int64_t capacity = 0;  // of the tails
};

/// LLaMA / Qwen2 / MiniCPM decoder.
///   embeddings    [tokens, hidden]
///   position_ids  [tokens] int64
///   returns       [tokens, hidden], after the final norm (and MiniCPM's logit scale)
/// Names: language.embed_tokens.weight, .layers.N.{input_norm, self_attn.{q,k,v,o}_proj, post_attention_norm,
/// mlp.{gate,up,down}_proj}, .norm.weight, .lm_head.weight (absent when tied). Rotary halves are (i, i + head_dim / 2).
class DecoderImpl : public torch::nn::Module {
 public:
  explicit DecoderImpl(const LanguageConfig& config);

  torch::Tensor embed(const torch::Tensor& ids);  // [tokens] -> [tokens, hidden], with scale_embeddings
  torch::Tensor forward(const torch::Tensor& embeddings,
                        const torch::Tensor& position_ids,
                        const std::vector<int64_t>& segment_lengths);
  const torch::Tensor& output_weight() const;     // [vocab, hidden]: lm_head, or the embedding when tied

  /// Runs one prompt and keeps its keys and values as the shared prefix. embeddings [tokens, hidden] -> [tokens, hidden].
  torch::Tensor prefill(const torch::Tensor& embeddings, KvCache& cache, int64_t batch, int64_t capacity);
  /// One more token for each of `batch` sequences. embeddings [batch, hidden] -> [batch, hidden].
  torch::Tensor decode(const torch::Tensor& embeddings, KvCache& cache);

  const LanguageConfig& config() const { return config_; }

 private:
  struct Parts;
  LanguageConfig config_;
  std::shared_ptr<Parts> parts_;
};
TORCH_MODULE(Decoder);

}  // namespace pocketvlm
