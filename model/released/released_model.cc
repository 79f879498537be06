#include "model/released/released_model.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// Typed reading of a released config.json; unknown keys are other programs' business and stay untouched.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    PV_CHECK(json_.is_object(), "{}: expected an object, got {}", where_, json_.type_name());
  }

  /// A key that is null counts as absent, as in the released code.
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  std::int64_t integer(const char* key) const {
    PV_CHECK(has(key), "{}: the key \"{}\" is missing; take config.json from the release", where_, key);
    return integer_or(key, 0);
  }
  std::int64_t integer_or(const char* key, std::int64_t otherwise) const {
    if (!has(key)) return otherwise;
    PV_CHECK(json_[key].is_number_integer() && json_[key].get<double>() >= 1 && json_[key].get<double>() <= kMax,
             "{}.{}: expected a whole number from 1 to {}, got {}",
             where_,
             key,
             kMax,
             json_[key].dump());
    return json_[key].get<std::int64_t>();
  }
  double number_or(const char* key, double otherwise) const {
    if (!has(key)) return otherwise;
    PV_CHECK(json_[key].is_number(), "{}.{}: expected a number, got {}", where_, key, json_[key].dump());
    return json_[key].get<double>();
  }
  bool boolean_or(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    PV_CHECK(json_[key].is_boolean(), "{}.{}: expected true or false, got {}", where_, key, json_[key].dump());
    return json_[key].get<bool>();
  }
  std::string text_or(const char* key, const std::string& otherwise) const {
    if (!has(key)) return otherwise;
    PV_CHECK(json_[key].is_string(), "{}.{}: expected a string, got {}", where_, key, json_[key].dump());
    return json_[key].get<std::string>();
  }
  /// The object under `key`, or an empty one.
  ConfigReader object(const char* key) const {
    static const Json kEmpty = Json::object();
    return {has(key) ? json_[key] : kEmpty, where_ + "." + key};
  }
  const std::string& where() const { return where_; }

 private:
  static constexpr std::int64_t kMax = std::int64_t{1} << 24;
  const Json& json_;
  std::string where_;
};

/// "version" is a string in 2.5 and a number in 2.6.
std::string version_text(const Json& config, const std::string& where) {
  if (!config.contains("version")) return {};
  const Json& version = config["version"];
  PV_CHECK(version.is_string() || version.is_number(), "{}.version: expected a string or a number", where);
  return version.is_string() ? version.get<std::string>() : fmt::format("{:.1f}", version.get<double>());
}

bool any_name(const std::vector<std::string>& names, auto&& wanted) {
  return std::any_of(names.begin(), names.end(), wanted);
}

std::string detect_minicpmv(const Json& config, const std::vector<std::string>& names, const std::string& where) {
  const std::string version = version_text(config, where);
  if (version == "2.5" || version == "2.6") return "minicpmv-" + version;
  PV_CHECK(version.empty() || version == "1.0" || version == "2.0" || version == "1" || version == "2",
           "{}.version: MiniCPM-V {} is not known; known are 1.0, 2.0, 2.5 and 2.6",
           where,
           version);
  const bool timm = config.contains("scale_emb") || config.contains("dim_model_base") ||
                    any_name(names, [](const std::string& name) { return name.starts_with("vpm.blocks."); });
  if (timm || !version.empty()) {
    return config.contains("slice_mode") || config.contains("max_slice_nums") ? "minicpmv-2.0" : "minicpmv-1.0";
  }
  const bool biased = any_name(names, [](const std::string& name) {
    return name.starts_with("llm.") && name.ends_with(".self_attn.q_proj.bias");
  });
  return biased ? "minicpmv-2.6" : "minicpmv-2.5";
}

std::string activation_of(const ConfigReader& vision, const std::string& otherwise) {
  static const std::map<std::string, std::string> kNames = {
      {"gelu", "gelu_erf"}, {"gelu_pytorch_tanh", "gelu_tanh"}, {"quick_gelu", "quick_gelu"}};
  if (!vision.has("hidden_act")) return otherwise;
  const auto found = kNames.find(vision.text_or("hidden_act", ""));
  PV_CHECK(found != kNames.end(),
           "{}.hidden_act: \"{}\" is not known; gelu, gelu_pytorch_tanh and quick_gelu are",
           vision.where(),
           vision.text_or("hidden_act", ""));
  return found->second;
}

/// Sizes of a named tower; `vision_config` overrides them.
struct TowerSizes {
  std::int64_t hidden, ffn, layers, heads, image_size, patch_size;
  double norm_eps;
};

TowerSizes read_tower(const ConfigReader& vision, const TowerSizes& named) {
  return {vision.integer_or("hidden_size", named.hidden),
          vision.integer_or("intermediate_size", named.ffn),
          vision.integer_or("num_hidden_layers", named.layers),
          vision.integer_or("num_attention_heads", named.heads),
          vision.integer_or("image_size", named.image_size),
          vision.integer_or("patch_size", named.patch_size),
          vision.number_or("layer_norm_eps", named.norm_eps)};
}

void set_tower(VisionConfig& vision, const TowerSizes& tower) {
  vision.hidden = tower.hidden;
  vision.ffn = tower.ffn;
  vision.num_layers = tower.layers;
  vision.num_heads = tower.heads;
  vision.norm_eps = tower.norm_eps;
  vision.position_side = tower.image_size / tower.patch_size;
}

/// Linear position interpolation, the one kind of RoPE scaling that the decoder has.
double read_rope_scaling(const ConfigReader& config) {
  if (!config.has("rope_scaling")) return 1.0;
  const ConfigReader scaling = config.object("rope_scaling");
  const std::string kind = scaling.text_or("rope_type", scaling.text_or("type", "default"));
  if (kind == "default") return 1.0;
  PV_CHECK(kind == "linear", "{}: RoPE scaling of type \"{}\" is not supported; only \"linear\" is", scaling.where(), kind);
  return scaling.number_or("factor", 1.0);
}

LanguageConfig read_language(const ConfigReader& config) {
  LanguageConfig language;
  language.vocab = config.integer("vocab_size");
  language.hidden = config.integer("hidden_size");
  language.num_layers = config.integer("num_hidden_layers");
  language.num_heads = config.integer("num_attention_heads");
  language.num_kv_heads = config.integer_or("num_key_value_heads", language.num_heads);
  language.head_dim = config.integer_or("head_dim", std::max<std::int64_t>(1, language.hidden / language.num_heads));
  language.ffn = config.integer("intermediate_size");
  language.norm_eps = config.number_or("rms_norm_eps", 1e-6);
  language.rope_theta = config.object("rope_parameters").number_or("rope_theta", config.number_or("rope_theta", 10000.0));
  language.rope_scaling = read_rope_scaling(config);
  language.max_positions = config.integer_or("max_position_embeddings", 2048);
  language.tied_embeddings = config.boolean_or("tie_word_embeddings", false);
  language.init_std = config.number_or("initializer_range", 0.02);
  const std::string activation = config.text_or("hidden_act", "silu");
  PV_CHECK(activation == "silu", "{}.hidden_act: \"{}\" is not supported; only \"silu\" is", config.where(), activation);
  PV_CHECK(!config.boolean_or("attention_bias", false),
           "{}.attention_bias: biases on all four projections are not supported",
           config.where());
  PV_CHECK(!config.boolean_or("use_sliding_window", false),
           "{}.use_sliding_window: attention over a sliding window is not supported",
           config.where());
  return language;
}

void read_slicing(const ConfigReader& config, ImageConfig& image) {
  const ConfigReader slices = config.object("slice_config");
  image.image_size = config.integer_or("image_size", 448);
  image.scale_resolution = config.integer_or("scale_resolution", slices.integer_or("scale_resolution", 448));
  image.max_slices = config.integer_or("max_slice_nums", slices.integer_or("max_slice_nums", 9));
  // Without slice mode the released code hands over the overview alone.
  if (!config.boolean_or("slice_mode", true)) image.max_slices = 1;
}

/// Resampler heads have 128 channels in every release; no key says so.
std::int64_t resampler_heads(const ModelConfig& model, const std::string& where) {
  constexpr std::int64_t kHeadDim = 128;
  PV_CHECK(model.language.hidden % kHeadDim == 0,
           "{}.hidden_size: {} is not a multiple of {}, the width of a resampler head",
           where,
           model.language.hidden,
           kHeadDim);
  return model.language.hidden / kHeadDim;
}

ReleasedModel read_minicpmv(const ConfigReader& config, const std::string& family, std::int64_t stored_vision_layers) {
  const bool timm = family == "minicpmv-1.0" || family == "minicpmv-2.0";
  ReleasedModel released;
  released.layout = timm ? ReleasedLayout::kMiniCpmVTimm : ReleasedLayout::kMiniCpmVSiglip;
  ModelConfig& model = released.config;
  model.family = family;
  const ConfigReader vision = config.object("vision_config");
  const std::int64_t patch_size = config.integer_or("patch_size", 14);
  TowerSizes tower = read_tower(vision, {1152, 4304, 27, 16, timm ? 384 : 980, patch_size, 1e-6});
  // 1.0 and 2.0 are built without the tower's last block: it is not stored either.
  const bool counted_without = vision.has("num_hidden_layers") && stored_vision_layers == tower.layers;
  if (config.boolean_or("drop_vision_last_layer", timm) && !counted_without) --tower.layers;
  PV_CHECK(tower.layers >= 1, "{}.num_hidden_layers: no block is left after dropping the last one", vision.where());
  set_tower(model.vision, tower);
  model.vision.activation = activation_of(vision, timm ? "gelu_erf" : "gelu_tanh");
  model.vision.positions = timm ? "interpolated" : "bucketed";
  model.image.patch_size = tower.patch_size;
  if (family == "minicpmv-2.5") {
    // These weights have only ever seen the quirk.
    model.vision.strip_quirk = true;
    model.compat = "released";
  }

  model.language = read_language(config);
  model.language.qkv_bias = family == "minicpmv-2.6";
  if (timm) {
    model.language.scale_embeddings = config.number_or("scale_emb", 1.0);
    model.language.scale_residual =
        config.number_or("scale_depth", 1.0) / std::sqrt(static_cast<double>(model.language.num_layers));
    const double base = config.number_or("dim_model_base", 1.0);
    PV_CHECK(base > 0, "{}.dim_model_base: {} must be greater than 0", config.where(), base);
    model.language.scale_logits = static_cast<double>(model.language.hidden) / base;
  }

  model.projector.num_queries = config.integer_or("query_num", 64);
  model.projector.num_heads = resampler_heads(model, config.where());
  model.projector.positions = family == "minicpmv-1.0" ? "interpolated" : timm ? "key_and_query" : "key";
  model.prompt.num_queries = model.projector.num_queries;
  read_slicing(config, model.image);
  if (family == "minicpmv-1.0") {
    model.image.mode = "squash";
    model.image.max_slices = 1;
  }
  model.prompt.chat_template = timm ? "minicpm" : family == "minicpmv-2.5" ? "llama3" : "chatml";
  model.prompt.image_layout = family == "minicpmv-2.6" ? "minicpmv-2.6" : "minicpmv-2.0";
  if (family == "minicpmv-2.6") {
    model.prompt.use_image_id = config.boolean_or("use_image_id", true);
    model.prompt.default_system = "You are a helpful assistant.";
  }
  return released;
}

/// "ldpnetv2" begins with "ldpnet": compared whole.
std::string mobile_projector(const ConfigReader& config) {
  const std::string kind = config.text_or("mm_projector_type", "linear");
  if (kind == "ldpnet") return "ldp";
  if (kind == "ldpnetv2") return "ldpv2";
  if (kind == "mlp2x_gelu") return "mlp";
  fail("{}.mm_projector_type: \"{}\" is not supported; ldpnet, ldpnetv2 and mlp2x_gelu are", config.where(), kind);
}

ReleasedModel read_mobilevlm(const ConfigReader& config, const std::string& family) {
  ReleasedModel released;
  released.layout = ReleasedLayout::kMobileVlm;
  ModelConfig& model = released.config;
  model.family = family;
  const ConfigReader vision = config.object("vision_config");
  TowerSizes tower = read_tower(vision, {1024, 4096, 24, 16, 336, 14, 1e-5});
  // hidden_states[k] is the output after block k; -2 therefore skips the last block.
  const double selected = config.number_or("mm_vision_select_layer", -2);
  PV_CHECK(selected == std::floor(selected) && selected <= -1 && -selected <= static_cast<double>(tower.layers),
           "{}.mm_vision_select_layer: {} must be a whole number from {} to -1",
           config.where(),
           selected,
           -tower.layers);
  released.unused_vision_layers = static_cast<std::int64_t>(-selected) - 1;
  const std::string feature = config.text_or("mm_vision_select_feature", "patch");
  PV_CHECK(feature == "patch", "{}.mm_vision_select_feature: \"{}\" is not supported; only \"patch\" is", config.where(), feature);
  tower.layers -= released.unused_vision_layers;
  set_tower(model.vision, tower);
  model.vision.activation = activation_of(vision, "quick_gelu");
  model.vision.patch_bias = false;
  model.vision.class_token = true;
  model.vision.pre_norm = true;
  model.vision.final_norm = false;
  model.vision.positions = "fixed";

  model.language = read_language(config);
  model.projector.kind = mobile_projector(config);
  model.projector.num_heads = 1;
  model.projector.norm_eps = 1e-5;
  const std::int64_t patches = model.vision.position_side * model.vision.position_side;
  model.projector.num_queries = model.projector.kind == "mlp" ? patches : patches / 4;
  model.prompt.num_queries = model.projector.num_queries;

  model.image.mode = config.text_or("image_aspect_ratio", "square") == "pad" ? "pad_square" : "center_crop";
  model.image.image_size = tower.image_size;
  model.image.scale_resolution = tower.image_size;
  model.image.max_slices = 1;
  model.image.patch_size = tower.patch_size;
  model.image.mean = {0.48145466, 0.4578275, 0.40821073};
  model.image.std = {0.26862954, 0.26130258, 0.27577711};
  model.prompt.chat_template = "vicuna_v1";
  model.prompt.image_layout = "bare";
  model.prompt.default_system =
      "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
      "polite answers to the user's questions.";
  return released;
}

}  // namespace

std::string detect_family(const Json& config, const std::vector<std::string>& tensor_names, const std::string& where) {
  const ConfigReader reader(config, where);
  const std::string type = reader.text_or("model_type", "");
  std::string architectures;
  if (reader.has("architectures")) architectures = config["architectures"].dump();
  if (type == "minicpmv" || architectures == "[\"MiniCPMV\"]") return detect_minicpmv(config, tensor_names, where);
  if (type == "mobilevlm" || architectures == "[\"MobileLlamaForCausalLM\"]") {
    return reader.text_or("mm_projector_type", "") == "ldpnetv2" ? "mobilevlm-v2" : "mobilevlm";
  }
  PV_CHECK(!(reader.has("format") && reader.has("model")),
           "{}: this is a checkpoint of pocketvlm already; import takes a released folder",
           where);
  fail("{}: unknown architecture (model_type \"{}\", architectures {}); MiniCPM-V 1.0, 2.0, 2.5, 2.6 (model_type \"minicpmv\") and "
       "MobileVLM (\"mobilevlm\") can be imported",
       where,
       type,
       architectures.empty() ? "[]" : architectures);
}

std::int64_t count_stored_vision_layers(const std::vector<std::string>& tensor_names) {
  std::int64_t layers = 0;
  for (const std::string& name : tensor_names) {
    layers += name.starts_with("vpm.blocks.") && name.ends_with(".norm1.weight") ? 1 : 0;
  }
  return layers;
}

ReleasedModel read_released_config(const Json& config,
                                   const std::string& family,
                                   const std::string& where,
                                   std::int64_t stored_vision_layers) {
  const ConfigReader reader(config, where);
  ReleasedModel released = family.starts_with("mobilevlm") ? read_mobilevlm(reader, family)
                                                           : read_minicpmv(reader, family, stored_vision_layers);
  // Ranges and cross-field rules are checked where every config is checked.
  released.config = read_config<ModelConfig>(config_to_json(released.config), where + " (as our config)");
  return released;
}

std::optional<ReleasedModel> released_form(const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  const std::string& kind = config.projector.kind;
  ReleasedModel released;
  released.config = config;
  if (vision.class_token) {
    const bool clip = vision.pre_norm && !vision.final_norm && !vision.patch_bias && vision.positions == "fixed";
    if (!clip || kind == "resampler" || config.language.qkv_bias) return std::nullopt;
    released.layout = ReleasedLayout::kMobileVlm;
    released.unused_vision_layers = 1;
    return released;
  }
  const bool siglip = vision.patch_bias && !vision.pre_norm && vision.final_norm && kind == "resampler";
  if (!siglip) return std::nullopt;
  if (vision.positions == "interpolated" && config.projector.positions != "key" && !config.language.qkv_bias) {
    released.layout = ReleasedLayout::kMiniCpmVTimm;
    return released;
  }
  if (vision.positions != "bucketed" || config.projector.positions != "key") return std::nullopt;
  released.layout = ReleasedLayout::kMiniCpmVSiglip;
  return released;
}

}  // namespace pocketvlm
