#include "tests/model/released/tiny_release.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/random.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;
using Shape = std::vector<std::int64_t>;

constexpr std::int64_t kVision = 16, kVisionFfn = 24, kPatch = 14, kVocab = 96, kFfn = 48, kLayers = 2;

std::uint16_t bfloat16_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

std::string encode(const std::vector<float>& values, const std::string& dtype) {
  std::string bytes;
  for (const float value : values) {
    if (dtype == "F32") {
      bytes.append(reinterpret_cast<const char*>(&value), 4);
    } else {
      // Half floats of these magnitudes: the sign, exponent 2^-2 .. 2^0 and random fractions do as well as rounding would.
      const std::uint16_t word = dtype == "BF16" ? bfloat16_bits(value) : static_cast<std::uint16_t>(0x3000 | (bfloat16_bits(value) & 0x8fff));
      bytes.append(reinterpret_cast<const char*>(&word), 2);
    }
  }
  return bytes;
}

class Release {
 public:
  Release(std::string dtype, std::uint64_t seed) : dtype_(std::move(dtype)), random_({seed, 1}) {}

  void add(const std::string& name, const Shape& shape) {
    std::size_t count = 1;
    for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random_.uniform(-1.0, 1.0));
    tensors[name] = {dtype_, shape, encode(values, dtype_)};
  }
  void both(const std::string& name, const Shape& weight) {
    add(name + ".weight", weight);
    add(name + ".bias", {weight[0]});
  }
  void norm(const std::string& name, std::int64_t size) { both(name, {size}); }

  void language(const std::string& prefix, std::int64_t hidden, std::int64_t kv, bool bias) {
    add(prefix + "model.embed_tokens.weight", {kVocab, hidden});
    add(prefix + "lm_head.weight", {kVocab, hidden});
    add(prefix + "model.norm.weight", {hidden});
    for (std::int64_t i = 0; i < kLayers; ++i) {
      const std::string layer = prefix + "model.layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", {hidden});
      add(layer + "post_attention_layernorm.weight", {hidden});
      for (const auto& [name, rows] : {std::pair{"q", hidden}, std::pair{"k", kv}, std::pair{"v", kv}}) {
        add(layer + "self_attn." + name + "_proj.weight", {rows, hidden});
        if (bias) add(layer + "self_attn." + name + "_proj.bias", {rows});
      }
      add(layer + "self_attn.o_proj.weight", {hidden, hidden});
      add(layer + "mlp.gate_proj.weight", {kFfn, hidden});
      add(layer + "mlp.up_proj.weight", {kFfn, hidden});
      add(layer + "mlp.down_proj.weight", {hidden, kFfn});
    }
  }

  void library_block(const std::string& block) {
    norm(block + "layer_norm1", kVision);
    norm(block + "layer_norm2", kVision);
    for (const char* name : {"q", "k", "v", "out"}) both(block + "self_attn." + name + "_proj", {kVision, kVision});
    both(block + "mlp.fc1", {kVisionFfn, kVision});
    both(block + "mlp.fc2", {kVision, kVisionFfn});
  }

  void timm_tower() {
    both("vpm.patch_embed.proj", {kVision, 3, kPatch, kPatch});
    add("vpm.pos_embed", {1, 9, kVision});
    for (int i = 0; i < 2; ++i) {  // three layers in the config, the last one dropped
      const std::string block = "vpm.blocks." + std::to_string(i) + ".";
      norm(block + "norm1", kVision);
      norm(block + "norm2", kVision);
      both(block + "attn.qkv", {3 * kVision, kVision});
      both(block + "attn.proj", {kVision, kVision});
      both(block + "mlp.fc1", {kVisionFfn, kVision});
      both(block + "mlp.fc2", {kVision, kVisionFfn});
    }
    norm("vpm.norm", kVision);
  }

  void siglip_tower() {
    both("vpm.embeddings.patch_embedding", {kVision, 3, kPatch, kPatch});
    add("vpm.embeddings.position_embedding.weight", {25, kVision});
    for (int i = 0; i < 3; ++i) library_block("vpm.encoder.layers." + std::to_string(i) + ".");
    norm("vpm.post_layernorm", kVision);
  }

  void clip_tower() {
    const std::string prefix = "model.vision_tower.vision_tower.vision_model.";
    add(prefix + "embeddings.class_embedding", {kVision});
    add(prefix + "embeddings.patch_embedding.weight", {kVision, 3, kPatch, kPatch});
    add(prefix + "embeddings.position_embedding.weight", {17, kVision});
    norm(prefix + "pre_layrnorm", kVision);
    for (int i = 0; i < 3; ++i) library_block(prefix + "encoder.layers." + std::to_string(i) + ".");
    norm(prefix + "post_layernorm", kVision);
  }

  void resampler(std::int64_t queries, std::int64_t hidden, bool stored_positions) {
    add("resampler.query", {queries, hidden});
    add("resampler.kv_proj.weight", {hidden, kVision});
    add("resampler.attn.in_proj_weight", {3 * hidden, hidden});
    add("resampler.attn.in_proj_bias", {3 * hidden});
    both("resampler.attn.out_proj", {hidden, hidden});
    for (const char* name : {"ln_q", "ln_kv", "ln_post"}) norm(std::string("resampler.") + name, hidden);
    add("resampler.proj", {hidden, hidden});
    if (stored_positions) positions(queries, hidden);
  }

  void ldp(std::int64_t hidden) {
    const std::string prefix = "model.mm_projector.model.";
    both(prefix + "mlp.1", {hidden, kVision});
    both(prefix + "mlp.3", {hidden, hidden});
    for (int b = 1; b <= 2; ++b) {
      const std::string block = prefix + "mb_block." + std::to_string(b) + ".block.";
      add(block + "0.0.weight", {hidden, 1, 3, 3});
      norm(block + "0.1", hidden);
      both(block + "1.fc1", {hidden / 4, hidden, 1, 1});
      both(block + "1.fc2", {hidden, hidden / 4, 1, 1});
      add(block + "2.0.weight", {hidden, hidden, 1, 1});
      norm(block + "2.1", hidden);
    }
  }

  void ldpv2(std::int64_t hidden) {
    both("model.mm_projector.mlp.mlp.0", {hidden, kVision});
    both("model.mm_projector.mlp.mlp.2", {hidden, hidden});
    both("model.mm_projector.peg.peg.0", {hidden, 1, 3, 3});
  }

  OwnedTensors tensors;

 private:
  /// Column in the first half of the channels, row in the second; sines, then cosines.
  void positions(std::int64_t queries, std::int64_t hidden) {
    const auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(queries)));
    const std::int64_t quarter = hidden / 4;
    std::vector<float> values;
    for (std::int64_t q = 0; q < queries; ++q) {
      for (const std::int64_t place : {q % side, q / side}) {
        for (const bool cosine : {false, true}) {
          for (std::int64_t i = 0; i < quarter; ++i) {
            const double angle = static_cast<double>(place) / std::pow(10000.0, static_cast<double>(i) / static_cast<double>(quarter));
            values.push_back(static_cast<float>(cosine ? std::cos(angle) : std::sin(angle)));
          }
        }
      }
    }
    tensors["resampler.pos_embed"] = {dtype_ == "F16" ? "F32" : dtype_, {queries, hidden}, encode(values, dtype_ == "F16" ? "F32" : dtype_)};
  }

  std::string dtype_;
  Random random_;
};

bool is_timm(const std::string& family) { return family == "minicpmv-1.0" || family == "minicpmv-2.0"; }

}  // namespace

std::vector<std::string> release_families() {
  return {"minicpmv-1.0", "minicpmv-2.0", "minicpmv-2.5", "minicpmv-2.6", "mobilevlm", "mobilevlm-v2"};
}

Json tiny_release_config(const std::string& family) {
  const Json vision = {{"hidden_size", kVision},      {"intermediate_size", kVisionFfn}, {"num_hidden_layers", 3},
                       {"num_attention_heads", 2},    {"patch_size", kPatch},
                       {"image_size", family.starts_with("mobilevlm") ? 56 : is_timm(family) ? 42 : 70}};
  Json config = {{"vocab_size", kVocab},       {"num_hidden_layers", kLayers}, {"intermediate_size", kFfn},
                 {"hidden_act", "silu"},       {"tie_word_embeddings", false}, {"torch_dtype", "bfloat16"},
                 {"vision_config", vision},    {"a_key_of_nobody", {{"kept", {1, 2.5, nullptr, "as it is"}}}}};
  if (family.starts_with("mobilevlm")) {
    config.update({{"model_type", "mobilevlm"},
                   {"architectures", {"MobileLlamaForCausalLM"}},
                   {"hidden_size", 64},
                   {"num_attention_heads", 4},
                   {"n_head", 7},  // stale key of another library, as in the released 3B
                   {"rms_norm_eps", 1e-6},
                   {"max_position_embeddings", 2048},
                   {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}},
                   {"mm_projector_type", family == "mobilevlm" ? "ldpnet" : "ldpnetv2"},
                   {"mm_vision_tower", "clip-vit-large-patch14-336"},
                   {"mm_vision_select_layer", -2},
                   {"mm_vision_select_feature", "patch"},
                   {"image_aspect_ratio", "pad"}});
    return config;
  }
  config.update({{"model_type", "minicpmv"},
                 {"architectures", {"MiniCPMV"}},
                 {"hidden_size", 128},
                 {"num_attention_heads", 4},
                 {"rms_norm_eps", 1e-5},
                 {"query_num", is_timm(family) ? 4 : 6},
                 {"image_size", 448},
                 {"drop_vision_last_layer", is_timm(family)}});
  if (is_timm(family)) {
    config.update({{"scale_emb", 12}, {"scale_depth", 1.4}, {"dim_model_base", 32}, {"rope_scaling", nullptr}});
    if (family == "minicpmv-2.0") config.update({{"slice_mode", true}, {"max_slice_nums", 9}, {"scale_resolution", 448}});
  } else {
    config.update({{"num_key_value_heads", 2}, {"rope_theta", 1e6}, {"slice_mode", true}});
    config["slice_config"] = {{"max_slice_nums", 5}, {"patch_size", 14}, {"model_type", "minicpmv"}};
    if (family == "minicpmv-2.5") config["version"] = "2.5";
    else config["version"] = 2.6;
  }
  return config;
}

OwnedTensors tiny_release_tensors(const std::string& family, const std::string& dtype) {
  Release release(dtype, std::hash<std::string>{}(family));
  if (family.starts_with("mobilevlm")) {
    release.language("", 64, 64, false);
    release.clip_tower();
    if (family == "mobilevlm") release.ldp(64);
    else release.ldpv2(64);
    return release.tensors;
  }
  release.language("llm.", 128, is_timm(family) ? 128 : 64, family == "minicpmv-2.6");
  if (is_timm(family)) release.timm_tower();
  else release.siglip_tower();
  release.resampler(is_timm(family) ? 4 : 6, 128, is_timm(family));
  return release.tensors;
}

void write_release(const std::string& folder, const Json& config, const OwnedTensors& tensors, int shards) {
  fs::remove_all(folder);
  make_folders(folder);
  write_json(folder + "/config.json", config);
  write_file_atomic(folder + "/generation_config.json", "{\"temperature\": 0.7}");
  std::vector<std::vector<TensorToWrite>> files(static_cast<std::size_t>(shards));
  Json map = Json::object();
  std::size_t next = 0;
  const auto shard_name = [&](std::size_t i) {
    return shards == 1 ? std::string("model.safetensors")
                       : "model-0000" + std::to_string(i + 1) + "-of-0000" + std::to_string(shards) + ".safetensors";
  };
  for (const auto& [name, tensor] : tensors) {
    const std::size_t i = next++ % files.size();
    files[i].push_back({name, tensor.dtype, tensor.shape, [&tensor = tensor] { return std::as_bytes(std::span(tensor.bytes)); }});
    map[name] = shard_name(i);
  }
  for (std::size_t i = 0; i < files.size(); ++i) write_safetensors(folder + "/" + shard_name(i), files[i], {{"format", "pt"}});
  if (shards > 1) write_json(folder + "/model.safetensors.index.json", {{"metadata", {{"total_size", 1}}}, {"weight_map", map}});
}

OwnedTensors read_tensors(const std::string& folder) {
  const SafetensorsFolder opened(folder);
  OwnedTensors tensors;
  for (const auto& [name, view] : opened.tensors()) {
    tensors[name] = {view.dtype, view.shape, std::string(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size())};
  }
  return tensors;
}

}  // namespace pocketvlm
