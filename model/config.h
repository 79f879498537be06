#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/preprocess/prompt.h"

/// The architecture as data; LibTorch-free, so that exporting and checking a config stay cheap.
namespace pocketvlm {

/// One ViT for SigLIP-SO400M (all MiniCPM-V) and CLIP-L/14 (MobileVLM). Facts per family: configs/models.
struct VisionConfig {
  int64_t hidden = 1152;
  int64_t num_layers = 27;         // blocks that run; a dropped last block is not counted
  int64_t num_heads = 16;
  int64_t ffn = 4304;
  std::string activation = "gelu_tanh";
  double norm_eps = 1e-6;
  bool patch_bias = true;
  bool class_token = false;        // CLIP: prepended, not handed to the projector
  bool pre_norm = false;           // CLIP: LayerNorm before the first block
  bool final_norm = true;          // SigLIP: LayerNorm after the last block
  std::string positions = "bucketed";
  int64_t position_side = 70;      // the table has side x side rows (+1 with class_token)
  bool strip_quirk = false;        // what "compat": "released" reproduces; see encode_strips()

  void visit_fields(auto&& field) {
    field("hidden", hidden, "width", in_range(1, 1 << 20));
    field("num_layers", num_layers, "blocks that run; a dropped last block is not counted", in_range(1, 1000));
    field("num_heads", num_heads, "attention heads", in_range(1, 1024));
    field("ffn", ffn, "width of the MLP", in_range(1, 1 << 22));
    field("activation", activation, "gelu_tanh (2.5, 2.6), gelu_erf (1.0, 2.0), quick_gelu (CLIP)",
          one_of({"gelu_tanh", "gelu_erf", "quick_gelu"}));
    field("norm_eps", norm_eps, "of every LayerNorm", at_least(0));
    field("patch_bias", patch_bias, "bias of the patch embedding");
    field("class_token", class_token, "CLIP's class token, dropped before the projector");
    field("pre_norm", pre_norm, "LayerNorm before the first block (CLIP)");
    field("final_norm", final_norm, "LayerNorm after the last block (SigLIP)");
    field("positions", positions,
          "bucketed: floor(side * i / n) into the table (2.5, 2.6); interpolated: antialiased bicubic of the table (1.0, "
          "2.0); fixed: the grid is always side x side (CLIP)",
          one_of({"bucketed", "interpolated", "fixed"}));
    field("position_side", position_side, "side of the learned position table, patches", in_range(1, 1000));
    field("strip_quirk", strip_quirk,
          "the released code sees each slice as one padded row of patches (2.5): reproduced when compat is \"released\"");
  }
};

/// From patches of the encoder to visual tokens of the language model.
struct ProjectorConfig {
  std::string kind = "resampler";
  int64_t num_queries = 64;
  int64_t num_heads = 28;               // resampler: hidden / 128 in the released models
  std::string positions = "key";
  double norm_eps = 1e-6;

  void visit_fields(auto&& field) {
    field("kind", kind, "resampler (MiniCPM-V), mlp (LLaVA), ldp (MobileVLM), ldpv2 (MobileVLM V2)",
          one_of({"resampler", "mlp", "ldp", "ldpv2"}));
    field("num_queries", num_queries, "visual tokens a slice", in_range(1, 65536));
    field("num_heads", num_heads, "resampler: attention heads", in_range(1, 1024));
    field("positions", positions,
          "resampler: 2-D sin-cos added to key (2.5, 2.6), key_and_query (2.0), or interpolated (1.0: key from the 8 x 8 "
          "query table)",
          one_of({"key", "key_and_query", "interpolated"}));
    field("norm_eps", norm_eps, "of every LayerNorm", at_least(0));
  }
};

/// One decoder for MiniCPM-2B, Llama 3, Qwen2 and MobileLLaMA.
struct LanguageConfig {
  int64_t vocab = 2048;
  int64_t hidden = 256;
  int64_t num_layers = 4;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 4;
  int64_t head_dim = 64;
  int64_t ffn = 768;
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  double rope_scaling = 1.0;       // linear position interpolation: positions are divided by it
  int64_t max_positions = 2048;
  bool qkv_bias = false;
  bool tied_embeddings = true;
  double scale_embeddings = 1.0;   // MiniCPM scale_emb: text embeddings only
  double scale_residual = 1.0;     // MiniCPM scale_depth / sqrt(num_layers)
  double scale_logits = 1.0;       // final hidden is divided by it (MiniCPM: hidden / dim_model_base)
  double init_std = 0.02;

  void visit_fields(auto&& field) {
    field("vocab", vocab, "rows of the embedding", in_range(8, 1 << 24));
    field("hidden", hidden, "width", in_range(1, 1 << 20));
    field("num_layers", num_layers, "blocks", in_range(1, 1000));
    field("num_heads", num_heads, "query heads", in_range(1, 1024));
    field("num_kv_heads", num_kv_heads, "key and value heads; divides num_heads", in_range(1, 1024));
    field("head_dim", head_dim, "width of one head; even", in_range(2, 1024));
    field("ffn", ffn, "width of the SwiGLU MLP", in_range(1, 1 << 22));
    field("norm_eps", norm_eps, "of every RMSNorm", at_least(0));
    field("rope_theta", rope_theta, "base of the rotary frequencies", at_least(1));
    field("rope_scaling", rope_scaling, "linear position interpolation: positions are divided by it", at_least(1));
    field("max_positions", max_positions, "longest sequence", in_range(8, 1 << 24));
    field("qkv_bias", qkv_bias, "biases on query, key, value (Qwen2)");
    field("tied_embeddings", tied_embeddings, "the output layer is the embedding");
    field("scale_embeddings", scale_embeddings, "factor of text embeddings (MiniCPM scale_emb)");
    field("scale_residual", scale_residual, "factor of each branch (MiniCPM scale_depth / sqrt(layers))");
    field("scale_logits", scale_logits, "the final hidden state is divided by it (MiniCPM)");
    field("init_std", init_std, "standard deviation of random weights", at_least(0));
  }
};

/// A whole vision-language model. Written as `config.json` of a checkpoint.
struct ModelConfig {
  std::string family = "minicpmv-2.6";
  VisionConfig vision;
  ProjectorConfig projector;
  LanguageConfig language;
  ImageConfig image;
  PromptConfig prompt;
  std::string compat = "right";

  void visit_fields(auto&& field) {
    field("family", family, "name of the architecture, for people and for export");
    field("vision", vision, "vision encoder");
    field("projector", projector, "from vision features to visual tokens");
    field("language", language, "decoder");
    field("image", image, "how pictures become encoder input");
    field("prompt", prompt, "how chats become tokens");
    field("compat", compat, "released: the released code's numbers with its quirks, for weights that were trained with them; right: without",
          one_of({"right", "released"}));
  }
  void validate(const std::string& path) const;
};

/// Reads a preset by name (configs/models/<name>.json beside the program or in $POCKETVLM_CONFIGS) or a config file by path.
ModelConfig load_model_config(const std::string& preset_or_path);

/// Parameters by component, from the config alone.
struct ParameterCounts {
  int64_t vision_encoder = 0;
  int64_t projector = 0;
  int64_t language = 0;
  int64_t total() const { return vision_encoder + projector + language; }
};
ParameterCounts count_parameters(const ModelConfig& config);

/// Channels inside the squeeze-and-excitation of LDP: hidden / 4 rounded to a multiple of 8 (MobileNetV3's rule, which
/// the released projector inherits).
int64_t ldp_squeeze_channels(int64_t hidden);

}  // namespace pocketvlm
