#include "model/released/released_model.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "model/released/released_tensors.h"
#include "tests/model/released/tiny_release.h"

namespace pocketvlm {
namespace {

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

/// config.json of 2.0 and 1.0 as released, without keys that say nothing about the architecture.
Json minicpm_config(bool slices) {
  Json config = {{"architectures", {"MiniCPMV"}}, {"dim_model_base", 256}, {"drop_vision_last_layer", true},
                 {"hidden_act", "silu"}, {"hidden_size", 2304}, {"image_size", 448}, {"initializer_range", 0.1},
                 {"intermediate_size", 5760}, {"max_position_embeddings", 4096}, {"model_type", "minicpmv"},
                 {"num_attention_heads", 36}, {"num_hidden_layers", 40}, {"num_key_value_heads", 36}, {"query_num", 64},
                 {"rms_norm_eps", 1e-5}, {"rope_scaling", nullptr}, {"rope_theta", 10000.0}, {"scale_depth", 1.4},
                 {"scale_emb", 12}, {"tie_word_embeddings", false}, {"vocab_size", 122753},
                 {"vision_encoder", "vit_so400m_patch14_siglip_384.webli"}};
  if (slices) config.update({{"max_slice_nums", 9}, {"patch_size", 14}, {"scale_resolution", 448}, {"slice_mode", true}});
  return config;
}

Json vision_config(const char* type) {
  return {{"hidden_size", 1152}, {"image_size", 980}, {"intermediate_size", 4304}, {"model_type", type},
          {"num_attention_heads", 16}, {"num_hidden_layers", 27}, {"patch_size", 14}};
}

Json llama3_config() {
  return {{"version", "2.5"}, {"architectures", {"MiniCPMV"}}, {"attention_bias", false}, {"drop_vision_last_layer", false},
          {"hidden_act", "silu"}, {"hidden_size", 4096}, {"image_size", 448}, {"initializer_range", 0.02},
          {"intermediate_size", 14336}, {"max_position_embeddings", 8192}, {"model_type", "minicpmv"},
          {"num_attention_heads", 32}, {"num_hidden_layers", 32}, {"num_key_value_heads", 8}, {"query_num", 96},
          {"rms_norm_eps", 1e-5}, {"rope_theta", 500000.0}, {"slice_config", {{"max_slice_nums", 9}, {"patch_size", 14}}},
          {"slice_mode", true}, {"vision_config", vision_config("idefics2")}, {"vocab_size", 128256}};
}

Json qwen2_config() {
  return {{"version", 2.6}, {"architectures", {"MiniCPMV"}}, {"drop_vision_last_layer", false}, {"hidden_act", "silu"},
          {"hidden_size", 3584}, {"image_size", 448}, {"initializer_range", 0.02}, {"intermediate_size", 18944},
          {"max_position_embeddings", 32768}, {"model_type", "minicpmv"}, {"num_attention_heads", 28},
          {"num_hidden_layers", 28}, {"num_key_value_heads", 4}, {"query_num", 64}, {"rms_norm_eps", 1e-6},
          {"rope_theta", 1000000.0}, {"slice_config", {{"max_slice_nums", 9}}}, {"slice_mode", true},
          {"use_sliding_window", false}, {"use_image_id", true}, {"vision_batch_size", 16},
          {"vision_config", vision_config("siglip")}, {"vocab_size", 151666}};
}

Json mobile_config(bool large, const char* projector) {
  return {{"model_type", "mobilevlm"}, {"architectures", {"MobileLlamaForCausalLM"}}, {"hidden_act", "silu"},
          {"hidden_size", large ? 2560 : 2048}, {"image_aspect_ratio", "pad"}, {"initializer_range", 0.02},
          {"intermediate_size", large ? 6912 : 5632}, {"max_position_embeddings", 2048}, {"mm_hidden_size", 1024},
          {"mm_projector_type", projector}, {"mm_vision_select_layer", -2}, {"mm_vision_tower", "clip-vit-large-patch14-336"},
          {"n_head", 16}, {"num_attention_heads", large ? 32 : 16}, {"num_hidden_layers", large ? 32 : 24},
          {"rms_norm_eps", 1e-6}, {"vocab_size", 32000}};
}

std::vector<std::pair<std::string, Json>> released_configs() {
  return {{"minicpmv-1.0", minicpm_config(false)}, {"minicpmv-2.0", minicpm_config(true)},
          {"minicpmv-2.5", llama3_config()}, {"minicpmv-2.6", qwen2_config()},
          {"mobilevlm-1.7b", mobile_config(false, "ldpnet")}, {"mobilevlm-3b", mobile_config(true, "ldpnet")},
          {"mobilevlm-v2-1.7b", mobile_config(false, "ldpnetv2")}, {"mobilevlm-v2-3b", mobile_config(true, "ldpnetv2")}};
}

ReleasedModel read(const Json& config) { return read_released_config(config, detect_family(config, {}, "config.json"), "config.json"); }

ModelConfig preset(const std::string& name) { return load_model_config(SOURCE_ROOT "/configs/models/" + name + ".json"); }

TEST(ReleasedConfig, EveryReleaseReadsAsItsPreset) {
  for (const auto& [name, config] : released_configs()) {
    ModelConfig wanted = preset(name);
    ModelConfig got = read(config).config;
    wanted.family = got.family;  // presets also name the size
    EXPECT_EQ(got.compat, name == "minicpmv-2.5" ? "released" : "right") << name;
    wanted.compat = got.compat;  // presets are trained from scratch, without quirks
    EXPECT_EQ(config_to_json(got), config_to_json(wanted)) << name;
  }
}

struct SheetCounts {
  std::string preset;
  std::int64_t vision, projector, language;
};

/// Figures of the architecture sheets; the MiniCPM-V totals times two are the byte totals of the released indices (2.5's index says
/// four bytes a parameter).
TEST(ReleasedTensors, CountsAreThoseOfTheReleasedFiles) {
  const std::vector<SheetCounts> sheets = {{"minicpmv-1.0", 397747744, 29514240, 3007703808},
                                           {"minicpmv-2.0", 397747744, 29514240, 3007703808},
                                           {"minicpmv-2.5", 417792240, 89038848, 8030261248},
                                           {"minicpmv-2.6", 417792240, 68619264, 7612763648},
                                           {"mobilevlm-1.7b", 303507456, 18936832, 1364297728},
                                           {"mobilevlm-3b", 303507456, 28913920, 2701560320},
                                           {"mobilevlm-v2-1.7b", 303507456, 6316032, 1364297728},
                                           {"mobilevlm-v2-3b", 303507456, 9205760, 2701560320}};
  for (const SheetCounts& sheet : sheets) {
    const auto form = released_form(preset(sheet.preset));
    ASSERT_TRUE(form.has_value()) << sheet.preset;
    const ParameterCounts counts = count_released_parameters(*form);
    EXPECT_EQ(counts.vision_encoder, sheet.vision) << sheet.preset;
    EXPECT_EQ(counts.projector, sheet.projector) << sheet.preset;
    EXPECT_EQ(counts.language, sheet.language) << sheet.preset;
  }
  const auto bytes = [](const char* name, std::int64_t width) { return count_released_parameters(*released_form(preset(name))).total() * width; };
  EXPECT_EQ(bytes("minicpmv-1.0", 2), 6869931584);
  EXPECT_EQ(bytes("minicpmv-2.0", 2), 6869931584);
  EXPECT_EQ(bytes("minicpmv-2.5", 4), 34148369344);
  EXPECT_EQ(bytes("minicpmv-2.6", 2), 16198350304);
  // Of MobileVLM's files only rounded sizes are known, in GB.
  EXPECT_NEAR(static_cast<double>(bytes("mobilevlm-1.7b", 2)) * 1e-9, 3.37, 0.005);
  EXPECT_NEAR(static_cast<double>(bytes("mobilevlm-v2-1.7b", 2)) * 1e-9, 3.35, 0.005);
  EXPECT_NEAR(static_cast<double>(bytes("mobilevlm-v2-3b", 2)) * 1e-9, 6.03, 0.005);
}

TEST(ReleasedTensors, TheTableIsTheSheetsListOfNames) {
  for (const std::string& family : release_families()) {
    const OwnedTensors wanted = tiny_release_tensors(family);
    std::size_t found = 0;
    for (const ReleasedTensor& row : released_tensors(read(tiny_release_config(family)))) {
      if (row.use == ReleasedUse::kBuffer) continue;
      ASSERT_TRUE(wanted.count(row.name)) << family << " " << row.name;
      EXPECT_EQ(row.shape, wanted.at(row.name).shape) << family << " " << row.name;
      ++found;
    }
    EXPECT_EQ(found, wanted.size()) << family;
  }
}

TEST(ReleasedConfig, FamiliesAreToldApart) {
  for (const std::string& family : release_families()) EXPECT_EQ(detect_family(tiny_release_config(family), {}, "config.json"), family);
  Json unversioned = tiny_release_config("minicpmv-2.6");
  unversioned.erase("version");
  EXPECT_EQ(detect_family(unversioned, {"llm.model.layers.0.self_attn.q_proj.bias"}, ""), "minicpmv-2.6");
  EXPECT_EQ(detect_family(unversioned, {"llm.model.layers.0.self_attn.q_proj.weight"}, ""), "minicpmv-2.5");
}

TEST(ReleasedConfig, UnknownArchitecturesAreNamed) {
  const std::string error = error_of([] { detect_family({{"model_type", "llava"}, {"architectures", {"LlavaLlama"}}}, {}, "a/config.json"); });
  EXPECT_NE(error.find("a/config.json: unknown architecture (model_type \"llava\""), std::string::npos) << error;
  Json later = tiny_release_config("minicpmv-2.6");
  later["version"] = 4.0;
  EXPECT_NE(error_of([&] { detect_family(later, {}, "c"); }).find("MiniCPM-V 4.0 is not known"), std::string::npos);
}

TEST(ReleasedConfig, SettingsThatTheModelLacksAreErrors) {
  const auto broken = [](const std::string& family, const Json& changes) {
    Json config = tiny_release_config(family);
    config.update(changes);
    return error_of([&] { read(config); });
  };
  EXPECT_NE(broken("mobilevlm", {{"mm_projector_type", "linear"}}).find("mm_projector_type"), std::string::npos);
  EXPECT_NE(broken("mobilevlm", {{"mm_vision_select_feature", "cls_patch"}}).find("cls_patch"), std::string::npos);
  EXPECT_NE(broken("mobilevlm", {{"mm_vision_select_layer", -9}}).find("mm_vision_select_layer"), std::string::npos);
  EXPECT_NE(broken("mobilevlm", {{"rope_scaling", {{"type", "yarn"}}}}).find("yarn"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.6", {{"hidden_act", "gelu"}}).find("hidden_act"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.6", {{"use_sliding_window", true}}).find("sliding"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.5", {{"attention_bias", true}}).find("attention_bias"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.5", {{"hidden_size", 100}}).find("multiple of 128"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.5", {{"hidden_size", nullptr}}).find("\"hidden_size\" is missing"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.5", {{"num_hidden_layers", -3}}).find("num_hidden_layers"), std::string::npos);
  EXPECT_NE(broken("minicpmv-2.5", {{"vision_config", "siglip"}}).find("vision_config"), std::string::npos);
}

TEST(ReleasedConfig, TheNamedTowersSizesCanBeOverridden) {
  const ModelConfig mobile = read(tiny_release_config("mobilevlm")).config;
  EXPECT_EQ(mobile.vision.num_layers, 2);  // three, the last one skipped
  EXPECT_EQ(mobile.vision.position_side, 4);
  EXPECT_EQ(mobile.projector.num_queries, 4);
  EXPECT_EQ(mobile.language.rope_scaling, 4.0);
  EXPECT_EQ(mobile.language.num_heads, 4);
  EXPECT_EQ(mobile.image.image_size, 56);
  const ModelConfig two = read(tiny_release_config("minicpmv-2.0")).config;
  EXPECT_EQ(two.vision.hidden, 16);
  EXPECT_EQ(two.vision.position_side, 3);
  EXPECT_EQ(two.vision.activation, "gelu_erf");
  EXPECT_DOUBLE_EQ(two.language.scale_residual, 1.4 / std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(two.language.scale_logits, 4.0);
  EXPECT_EQ(read(tiny_release_config("minicpmv-2.6")).config.image.max_slices, 5);
}

TEST(ReleasedForm, ArchitecturesOfOurOwnHaveNone) {
  EXPECT_FALSE(released_form(preset("quickstart")).has_value());
}

}  // namespace
}  // namespace pocketvlm
