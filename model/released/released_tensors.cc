#include "model/released/released_tensors.h"

#include "base/error.h"

namespace pocketvlm {
namespace {

using Shape = std::vector<std::int64_t>;

/// Collects rows of the table under one prefix of the release and one of ours.
class Rows {
 public:
  Rows(std::vector<ReleasedTensor>& table, std::string released, std::string ours)
      : table_(table), released_(std::move(released)), ours_(std::move(ours)) {}

  Rows under(const std::string& released, const std::string& ours) const {
    return {table_, released_ + released, ours_ + ours};
  }

  void weight(const std::string& released, const std::string& ours, const Shape& shape) { reshaped(released, ours, shape, shape); }
  void reshaped(const std::string& released, const std::string& ours, const Shape& shape, const Shape& our_shape) {
    table_.push_back({released_ + released, shape, ReleasedUse::kWeight, {{ours_ + ours, our_shape}}});
  }
  /// [3 * rows, ...] holding three of ours, query, key and value.
  void fused(const std::string& released, const std::string& kind, Shape part) {
    ReleasedTensor row{released_ + released, part, ReleasedUse::kWeight, {}};
    row.shape[0] *= 3;
    for (const char* name : {"q_proj.", "k_proj.", "v_proj."}) row.parts.push_back({ours_ + name + kind, part});
    table_.push_back(std::move(row));
  }
  void linear(const std::string& released, const std::string& ours, std::int64_t out, std::int64_t in, bool bias = true) {
    weight(released + ".weight", ours + ".weight", {out, in});
    if (bias) weight(released + ".bias", ours + ".bias", {out});
  }
  /// A 1 x 1 convolution is a linear layer over channels.
  void pointwise(const std::string& released, const std::string& ours, std::int64_t out, std::int64_t in, bool bias) {
    reshaped(released + ".weight", ours + ".weight", {out, in, 1, 1}, {out, in});
    if (bias) weight(released + ".bias", ours + ".bias", {out});
  }
  void norm(const std::string& released, const std::string& ours, std::int64_t size) {
    weight(released + ".weight", ours + ".weight", {size});
    weight(released + ".bias", ours + ".bias", {size});
  }
  void positions(const std::string& released, const std::string& ours, const Shape& shape) {
    table_.push_back({released_ + released, shape, ReleasedUse::kPositions, {{ours_ + ours, shape}}});
  }
  void kept(const std::string& released, const Shape& shape, ReleasedUse use) {
    table_.push_back({released_ + released, shape, use, {}});
  }

 private:
  std::vector<ReleasedTensor>& table_;
  std::string released_;
  std::string ours_;
};

void add_language(Rows rows, const LanguageConfig& language) {
  const std::int64_t hidden = language.hidden;
  const std::int64_t q = language.num_heads * language.head_dim, kv = language.num_kv_heads * language.head_dim;
  rows.weight("model.embed_tokens.weight", "embed_tokens.weight", {language.vocab, hidden});
  for (std::int64_t i = 0; i < language.num_layers; ++i) {
    Rows layer = rows.under(fmt::format("model.layers.{}.", i), fmt::format("layers.{}.", i));
    layer.linear("self_attn.q_proj", "self_attn.q_proj", q, hidden, language.qkv_bias);
    layer.linear("self_attn.k_proj", "self_attn.k_proj", kv, hidden, language.qkv_bias);
    layer.linear("self_attn.v_proj", "self_attn.v_proj", kv, hidden, language.qkv_bias);
    layer.linear("self_attn.o_proj", "self_attn.o_proj", hidden, q, false);
    layer.kept("self_attn.rotary_emb.inv_freq", {}, ReleasedUse::kBuffer);
    layer.linear("mlp.gate_proj", "mlp.gate_proj", language.ffn, hidden, false);
    layer.linear("mlp.up_proj", "mlp.up_proj", language.ffn, hidden, false);
    layer.linear("mlp.down_proj", "mlp.down_proj", hidden, language.ffn, false);
    layer.weight("input_layernorm.weight", "input_norm.weight", {hidden});
    layer.weight("post_attention_layernorm.weight", "post_attention_norm.weight", {hidden});
  }
  rows.weight("model.norm.weight", "norm.weight", {hidden});
  if (!language.tied_embeddings) rows.weight("lm_head.weight", "lm_head.weight", {language.vocab, hidden});
}

void add_patch_embedding(Rows& rows, const std::string& released, const ModelConfig& config) {
  const std::int64_t hidden = config.vision.hidden, side = config.image.patch_size;
  rows.reshaped(released + ".weight", "patch_embedding.weight", {hidden, 3, side, side}, {hidden, 3 * side * side});
  if (config.vision.patch_bias) rows.weight(released + ".bias", "patch_embedding.bias", {hidden});
}

/// timm's ViT (1.0, 2.0).
void add_timm_tower(Rows rows, const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  const std::int64_t hidden = vision.hidden, places = vision.position_side * vision.position_side;
  rows.reshaped("pos_embed", "position_embedding", {1, places, hidden}, {places, hidden});
  add_patch_embedding(rows, "patch_embed.proj", config);
  for (std::int64_t i = 0; i < vision.num_layers; ++i) {
    Rows block = rows.under(fmt::format("blocks.{}.", i), fmt::format("blocks.{}.", i));
    block.norm("norm1", "norm1", hidden);
    Rows attention = block.under("attn.", "attn.");
    attention.fused("qkv.weight", "weight", {hidden, hidden});
    attention.fused("qkv.bias", "bias", {hidden});
    attention.linear("proj", "out_proj", hidden, hidden);
    block.norm("norm2", "norm2", hidden);
    block.linear("mlp.fc1", "mlp.fc1", vision.ffn, hidden);
    block.linear("mlp.fc2", "mlp.fc2", hidden, vision.ffn);
  }
  rows.norm("norm", "final_norm", hidden);
}

/// A block as the transformers library names it, in SigLIP and CLIP alike.
void add_library_block(Rows block, const VisionConfig& vision) {
  block.norm("layer_norm1", "norm1", vision.hidden);
  for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
    block.linear(std::string("self_attn.") + name, std::string("attn.") + name, vision.hidden, vision.hidden);
  }
  block.norm("layer_norm2", "norm2", vision.hidden);
  block.linear("mlp.fc1", "mlp.fc1", vision.ffn, vision.hidden);
  block.linear("mlp.fc2", "mlp.fc2", vision.hidden, vision.ffn);
}

void add_siglip_tower(Rows rows, const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  add_patch_embedding(rows, "embeddings.patch_embedding", config);
  rows.weight("embeddings.position_embedding.weight",
              "position_embedding",
              {vision.position_side * vision.position_side, vision.hidden});
  rows.kept("embeddings.position_ids", {}, ReleasedUse::kBuffer);
  for (std::int64_t i = 0; i < vision.num_layers; ++i) {
    add_library_block(rows.under(fmt::format("encoder.layers.{}.", i), fmt::format("blocks.{}.", i)), vision);
  }
  rows.norm("post_layernorm", "final_norm", vision.hidden);
}

/// CLIP (MobileVLM): the last blocks and the norm after them are stored and never run.
void add_clip_tower(Rows rows, const ModelConfig& config, std::int64_t unused_layers) {
  const VisionConfig& vision = config.vision;
  const std::int64_t places = vision.position_side * vision.position_side + 1;
  rows.weight("embeddings.class_embedding", "class_embedding", {vision.hidden});
  add_patch_embedding(rows, "embeddings.patch_embedding", config);
  rows.weight("embeddings.position_embedding.weight", "position_embedding", {places, vision.hidden});
  rows.kept("embeddings.position_ids", {}, ReleasedUse::kBuffer);
  rows.norm("pre_layrnorm", "pre_norm", vision.hidden);  // the library's own spelling
  for (std::int64_t i = 0; i < vision.num_layers; ++i) {
    add_library_block(rows.under(fmt::format("encoder.layers.{}.", i), fmt::format("blocks.{}.", i)), vision);
  }
  std::vector<ReleasedTensor> unused;
  Rows never_run(unused, "", "");
  for (std::int64_t i = 0; i < unused_layers; ++i) {
    add_library_block(never_run.under(fmt::format("encoder.layers.{}.", vision.num_layers + i), ""), vision);
  }
  never_run.norm("post_layernorm", "", vision.hidden);
  for (const ReleasedTensor& tensor : unused) rows.kept(tensor.name, tensor.shape, ReleasedUse::kUnused);
}

void add_resampler(Rows rows, const ModelConfig& config) {
  const std::int64_t hidden = config.language.hidden, queries = config.projector.num_queries;
  rows.weight("query", "query", {queries, hidden});
  if (config.projector.positions != "key") rows.positions("pos_embed", "query_positions", {queries, hidden});
  rows.linear("kv_proj", "kv_proj", hidden, config.vision.hidden, false);
  Rows attention = rows.under("attn.", "attn.");
  attention.fused("in_proj_weight", "weight", {hidden, hidden});
  attention.fused("in_proj_bias", "bias", {hidden});
  attention.linear("out_proj", "out_proj", hidden, hidden);
  rows.norm("ln_q", "norm_q", hidden);
  rows.norm("ln_kv", "norm_kv", hidden);
  rows.norm("ln_post", "norm_post", hidden);
  rows.weight("proj", "proj", {hidden, hidden});
}

void add_ldp_block(Rows block, std::int64_t hidden) {
  const std::int64_t inner = ldp_squeeze_channels(hidden);
  block.weight("0.0.weight", "depthwise.weight", {hidden, 1, 3, 3});
  block.norm("0.1", "norm1", hidden);
  block.pointwise("1.fc1", "se.fc1", inner, hidden, true);
  block.pointwise("1.fc2", "se.fc2", hidden, inner, true);
  block.pointwise("2.0", "pointwise", hidden, hidden, false);
  block.norm("2.1", "norm2", hidden);
}

void add_mobile_projector(Rows rows, const ModelConfig& config) {
  const std::int64_t hidden = config.language.hidden, vision = config.vision.hidden;
  if (config.projector.kind == "mlp") {
    rows.linear("0", "mlp.0", hidden, vision);
    rows.linear("2", "mlp.2", hidden, hidden);
  } else if (config.projector.kind == "ldpv2") {
    rows.linear("mlp.mlp.0", "mlp.0", hidden, vision);
    rows.linear("mlp.mlp.2", "mlp.2", hidden, hidden);
    rows.weight("peg.peg.0.weight", "peg.weight", {hidden, 1, 3, 3});
    rows.weight("peg.peg.0.bias", "peg.bias", {hidden});
  } else {
    rows.linear("model.mlp.1", "mlp.0", hidden, vision);
    rows.linear("model.mlp.3", "mlp.2", hidden, hidden);
    add_ldp_block(rows.under("model.mb_block.1.block.", "blocks.0."), hidden);
    add_ldp_block(rows.under("model.mb_block.2.block.", "blocks.1."), hidden);
  }
}

std::int64_t num_elements(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

}  // namespace

std::vector<ReleasedTensor> released_tensors(const ReleasedModel& model) {
  const ModelConfig& config = model.config;
  std::vector<ReleasedTensor> table;
  if (model.layout == ReleasedLayout::kMobileVlm) {
    add_language({table, "", "language."}, config.language);
    add_clip_tower({table, "model.vision_tower.vision_tower.vision_model.", "vision_encoder."}, config, model.unused_vision_layers);
    add_mobile_projector({table, "model.mm_projector.", "projector."}, config);
    return table;
  }
  add_language({table, "llm.", "language."}, config.language);
  Rows tower(table, "vpm.", "vision_encoder.");
  if (model.layout == ReleasedLayout::kMiniCpmVTimm) add_timm_tower(tower, config);
  else add_siglip_tower(tower, config);
  add_resampler({table, "resampler.", "projector."}, config);
  return table;
}

ParameterCounts count_released_parameters(const ReleasedModel& model) {
  ParameterCounts counts;
  for (const ReleasedTensor& tensor : released_tensors(model)) {
    if (tensor.use == ReleasedUse::kBuffer) continue;
    const bool vision = tensor.name.starts_with("vpm.") || tensor.name.starts_with("model.vision_tower.");
    const bool projector = tensor.name.starts_with("resampler.") || tensor.name.starts_with("model.mm_projector.");
    (vision ? counts.vision_encoder : projector ? counts.projector : counts.language) += num_elements(tensor.shape);
  }
  return counts;
}

}  // namespace pocketvlm
