#include "model/decoder.h"

#include <functional>

#include "base/error.h"
#include "model/attention.h"
#include "model/block_runner.h"
#include "model/decode_attention.h"
#include "model/fused_ops.h"
#include "model/row_padding.h"

namespace pocketvlm {
namespace {

class Attention : public torch::nn::Module {
 public:
  explicit Attention(const LanguageConfig& config) : config_(config) {
    const int64_t q = config.num_heads * config.head_dim;
    const int64_t kv = config.num_kv_heads * config.head_dim;
    q_proj_ = register_module("q_proj", Linear(config.hidden, q, config.qkv_bias));
    k_proj_ = register_module("k_proj", Linear(config.hidden, kv, config.qkv_bias));
    v_proj_ = register_module("v_proj", Linear(config.hidden, kv, config.qkv_bias));
    o_proj_ = register_module("o_proj", Linear(q, config.hidden, false));
  }

  /// Queries, keys and values side by side, not yet rotated: [tokens, heads + 2 * kv_heads, head_dim].
  torch::Tensor project(const torch::Tensor& x) {
    return linear_group(x, {q_proj_.get(), k_proj_.get(), v_proj_.get()}).unflatten(1, {-1, config_.head_dim});
  }
  torch::Tensor output(const torch::Tensor& attended) { return o_proj_->forward(attended); }

 private:
  LanguageConfig config_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
};

class Mlp : public torch::nn::Module {
 public:
  explicit Mlp(const LanguageConfig& config) {
    gate_proj_ = register_module("gate_proj", Linear(config.hidden, config.ffn, false));
    up_proj_ = register_module("up_proj", Linear(config.hidden, config.ffn, false));
    down_proj_ = register_module("down_proj", Linear(config.ffn, config.hidden, false));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return down_proj_->forward(swiglu(linear_group(x, {gate_proj_.get(), up_proj_.get()})));
  }

 private:
  Linear gate_proj_{nullptr}, up_proj_{nullptr}, down_proj_{nullptr};
};

class Block : public torch::nn::Module {
 public:
  explicit Block(const LanguageConfig& config) : scale_(config.scale_residual) {
    input_norm_ = register_module("input_norm", RmsNorm(config.hidden, config.norm_eps));
    attention_ = register_module("self_attn", std::make_shared<Attention>(config));
    post_attention_norm_ = register_module("post_attention_norm", RmsNorm(config.hidden, config.norm_eps));
    mlp_ = register_module("mlp", std::make_shared<Mlp>(config));
  }

  /// x [tokens, hidden] float32, the residual stream. `attend` maps queries, keys and values (side by side, not rotated)
  /// to [tokens, heads * head_dim]: over the tokens themselves, or over a cache. `rows`: the tokens that are wanted (undefined: all).
  template <typename Attend>
  torch::Tensor forward(const torch::Tensor& x, Attend attend, const torch::Tensor& rows = {}) {
    const auto wanted = [&](const torch::Tensor& all) { return rows.defined() ? all.index_select(0, rows) : all; };
    const torch::Tensor attended =
        attention_->output(wanted(attend(attention_->project(input_norm_->forward(x)))));
    const NormedSum middle = add_norm(
        wanted(x), attended, scale_, post_attention_norm_->weight, {}, post_attention_norm_->eps(), compute_dtype());
    return add_branch(middle.sum, mlp_->forward(middle.normed), scale_);
  }

 private:
  double scale_;
  RmsNorm input_norm_{nullptr}, post_attention_norm_{nullptr};
  std::shared_ptr<Attention> attention_;
  std::shared_ptr<Mlp> mlp_;
};

/// Runs the blocks, each through the thread's runner; behind the last one's attention only `rows` go on (undefined: all). `attend`
/// owns what it captures: a backward may call it again.
torch::Tensor run_layers(const std::vector<std::shared_ptr<Block>>& layers,
                         const torch::Tensor& embeddings,
                         const torch::Tensor& rows,
                         const std::function<torch::Tensor(const torch::Tensor& qkv)>& attend) {
  torch::Tensor x = embeddings.to(torch::kFloat32);
  for (const auto& layer : layers) {
    const torch::Tensor wanted = layer == layers.back() ? rows : torch::Tensor();
    x = run_block(*layer, x, [layer, attend, wanted](const torch::Tensor& input) {
      return layer->forward(input, attend, wanted);
    });
  }
  return x;
}

/// Rows to add to those of a training step. Without gradients products with cached weights are our own, and take any number.
int64_t missing_when_training(const torch::Tensor& x, int64_t rows) { return torch::GradMode::is_enabled() ? missing_rows(x, rows) : 0; }

/// run_layers over tokens with rows of zeros below, which are left out again.
torch::Tensor run_padded(const std::vector<std::shared_ptr<Block>>& layers,
                         const torch::Tensor& embeddings,
                         int64_t padding,
                         const torch::Tensor& rows,
                         const std::function<torch::Tensor(const torch::Tensor& qkv)>& attend) {
  const torch::Tensor x = with_zero_rows(embeddings, padding);
  if (!rows.defined()) return run_layers(layers, x, rows, attend).narrow(0, 0, embeddings.size(0));
  const int64_t more = missing_when_training(x, rows.size(0));
  return run_layers(layers, x, with_zero_rows(rows, more), attend).narrow(0, 0, rows.size(0));  // the first token, again
}

}  // namespace

struct DecoderImpl::Parts {
  torch::Tensor embed_tokens;
  std::vector<std::shared_ptr<Block>> layers;
  RmsNorm norm{nullptr};
  Linear lm_head{nullptr};
};

DecoderImpl::DecoderImpl(const LanguageConfig& config) : config_(config), parts_(std::make_shared<Parts>()) {
  const auto embed_tokens = register_module("embed_tokens", std::make_shared<torch::nn::Module>("Embedding"));
  parts_->embed_tokens =
      embed_tokens->register_parameter("weight", new_parameter({config.vocab, config.hidden}));
  const auto layers = register_module("layers", std::make_shared<torch::nn::Module>("Layers"));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    parts_->layers.push_back(layers->register_module(std::to_string(i), std::make_shared<Block>(config)));
  }
  parts_->norm = register_module("norm", RmsNorm(config.hidden, config.norm_eps));
  if (!config.tied_embeddings) {
    parts_->lm_head = register_module("lm_head", Linear(config.hidden, config.vocab, false));
  }
}

torch::Tensor DecoderImpl::embed(const torch::Tensor& ids) {
  const torch::Tensor rows = at::embedding(parts_->embed_tokens, ids).to(torch::kFloat32);
  return config_.scale_embeddings == 1.0 ? rows : rows * config_.scale_embeddings;
}

const torch::Tensor& DecoderImpl::output_weight() const {
  return parts_->lm_head ? parts_->lm_head->weight : parts_->embed_tokens;
}

torch::Tensor DecoderImpl::finish(const torch::Tensor& x) {
  const torch::Tensor normed = parts_->norm->forward(x);
  return config_.scale_logits == 1.0 ? normed : normed / config_.scale_logits;
}

RotaryTable DecoderImpl::rotary(const torch::Tensor& position_ids) const {
  return rotary_table(position_ids, config_.head_dim, config_.rope_theta, config_.rope_scaling);
}

torch::Tensor DecoderImpl::forward(const torch::Tensor& embeddings,
                                   const torch::Tensor& position_ids,
                                   const std::vector<int64_t>& segment_lengths,
                                   const torch::Tensor& rows) {
  const int64_t padding = missing_when_training(embeddings, embeddings.size(0));
  std::vector<int64_t> lengths = segment_lengths;
  if (padding > 0) lengths.push_back(padding);
  const auto attend = [table = rotary(with_zero_rows(position_ids, padding)), lengths, heads = config_.num_heads](
                          const torch::Tensor& qkv) {
    return packed_attention(qkv, heads, &table, lengths, /*causal=*/true);
  };
  return finish(run_padded(parts_->layers, embeddings, padding, rows, attend));
}

torch::Tensor DecoderImpl::forward(const torch::Tensor& embeddings,
                                   const torch::Tensor& position_ids,
                                   const SharedPrefixes& shared,
                                   const torch::Tensor& rows) {
  const int64_t padding = missing_when_training(embeddings, embeddings.size(0));
  SharedPrefixes padded = shared;
  if (padding > 0) {
    const torch::Tensor added = torch::arange(padding, shared.expand.options());
    padded.expand = torch::cat({shared.expand, added + embeddings.size(0)});
    padded.collapse = torch::cat({shared.collapse, added + shared.expand.size(0)});
    padded.lengths.push_back(padding);
    padded.unread.push_back(0);
  }
  const torch::Tensor positions = with_zero_rows(position_ids, padding).index_select(0, padded.expand);
  const auto attend = [table = rotary(positions), padded, heads = config_.num_heads](const torch::Tensor& qkv) {
    return packed_attention(
               qkv.index_select(0, padded.expand), heads, &table, padded.lengths, /*causal=*/true, padded.unread)
        .index_select(0, padded.collapse);
  };
  return finish(run_padded(parts_->layers, embeddings, padding, rows, attend));
}

torch::Tensor DecoderImpl::prefill_prompts(const torch::Tensor& embeddings,
                                           const std::vector<int64_t>& prompt_lengths,
                                           KvCache& cache,
                                           const std::vector<int64_t>& at) {
  std::vector<torch::Tensor> positions;
  std::vector<int64_t> ends;
  for (const int64_t length : prompt_lengths) {
    PV_CHECK(length > 0, "generation: an empty prompt; it needs one token at least");
    positions.push_back(torch::arange(length, embeddings.options().dtype(torch::kInt64)));
    ends.push_back((ends.empty() ? -1 : ends.back()) + length);
  }
  const torch::Tensor last_tokens = torch::tensor(ends, torch::kInt64).to(embeddings.device());
  const RotaryTable table = rotary(torch::cat(positions));
  const int64_t heads = config_.num_heads, kv_heads = config_.num_kv_heads;
  cache.begin_prompts(at, prompt_lengths);
  torch::Tensor x = embeddings.to(torch::kFloat32);
  std::size_t index = 0;
  for (const auto& layer : parts_->layers) {
    const auto attend = [&](const torch::Tensor& qkv) {
      const torch::Tensor turned = rotate_heads(qkv, table, heads + kv_heads);
      cache.fill_layer(index++, at, turned.narrow(1, heads, kv_heads), turned.narrow(1, heads + kv_heads, kv_heads));
      return packed_attention(turned, heads, nullptr, prompt_lengths, /*causal=*/true);
    };
    x = layer->forward(x, attend, layer == parts_->layers.back() ? last_tokens : torch::Tensor());
  }
  return finish(x);
}

torch::Tensor DecoderImpl::decode(const torch::Tensor& embeddings, KvCache& cache, const std::vector<int64_t>& sequences) {
  for (const int64_t sequence : sequences) {
    PV_CHECK(cache.tails[static_cast<std::size_t>(sequence)] < cache.capacity,
             "generation: the cache holds {} new tokens and is full; give a larger capacity",
             cache.capacity);
  }
  const RotaryTable table = rotary(cache.next_positions(sequences, embeddings.device()));
  DecodeStep step;
  step.sequences = sequences;
  torch::Tensor x = embeddings.to(torch::kFloat32);
  const int64_t heads = config_.num_heads, kv_heads = config_.num_kv_heads;
  std::size_t index = 0;
  for (const auto& layer : parts_->layers) {
    KvCache::Layer& kept = cache.layers[index++];
    x = layer->forward(x, [&](const torch::Tensor& qkv) {
      const torch::Tensor turned = rotate_heads(qkv, table, heads + kv_heads);
      return decode_attention(turned.narrow(1, 0, heads),
                              turned.narrow(1, heads, kv_heads),
                              turned.narrow(1, heads + kv_heads, kv_heads),
                              step,
                              cache,
                              kept);
    });
  }
  for (const int64_t sequence : sequences) ++cache.tails[static_cast<std::size_t>(sequence)];
  return finish(x);
}

}  // namespace pocketvlm
