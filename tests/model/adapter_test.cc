#include "model/adapter.h"

#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "model/checkpoint.h"
#include "model/released/adapter_names.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

LoraConfig lora_of(int64_t rank, std::vector<std::string> targets) {
  LoraConfig lora;
  lora.rank = rank;
  lora.alpha = 2.0 * static_cast<double>(rank);
  lora.targets = std::move(targets);
  return lora;
}

ModelConfig preset(const std::string& name) { return load_model_config(SOURCE_ROOT "/configs/models/" + name + ".json"); }

/// MobileVLM's sheet, section 4: rank 128 on every Linear of the language model.
TEST(Adapter, CountsAreThoseOfTheReleasedRecipes) {
  const LoraConfig mobile = lora_of(128, {"language.layers.*_proj"});
  EXPECT_EQ(count_lora_parameters(preset("mobilevlm-1.7b"), mobile), 121'110'528);
  EXPECT_EQ(count_lora_parameters(preset("mobilevlm-3b"), mobile), 200'278'016);
  EXPECT_EQ(count_lora_parameters(preset("mobilevlm-v2-3b"), mobile), 200'278'016);
  // MiniCPM-V's: rank 64 on query, key, value and output. Per layer of 2.5: four sides of 4096, and 1024 for key and value.
  const LoraConfig mini = lora_of(64, {"language.layers.*.self_attn.*_proj"});
  EXPECT_EQ(count_lora_parameters(preset("minicpmv-2.5"), mini), 64 * 32 * (4 * 4096 + 2 * 4096 + 2 * 1024));
  EXPECT_NE(error_of([&] { count_lora_parameters(preset("minicpmv-2.5"), lora_of(8, {"llm.*"})); }).find("llm.*"), std::string::npos);
}

TEST(Adapter, CountsFromTheConfigAreThoseOfTheModel) {
  for (const ModelConfig& config : {tiny_config(), tiny_clip_config()}) {
    for (const char* pattern : {"language.layers.*_proj", "*_proj", "vision_encoder.blocks.*"}) {
      VisionLanguageModel model(config, 3);
      const LoraConfig lora = lora_of(3, {pattern});
      add_lora(*model, lora, 1);
      int64_t parameters = 0;
      for (const auto& item : model->named_parameters()) {
        if (item.key().ends_with("lora_a") || item.key().ends_with("lora_b")) parameters += item.value().numel();
      }
      EXPECT_EQ(count_lora_parameters(config, lora), parameters) << config.family << " " << pattern;
    }
  }
}

class AdapterFolder : public testing::Test {
 protected:
  AdapterFolder() : root_(testing::TempDir() + "/adapter_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(root_);
    write_file_atomic(root_ + "/tokenizer.model", "any bytes");
  }
  ~AdapterFolder() override { fs::remove_all(root_); }

  std::string at(const char* name) const { return root_ + "/" + name; }

  /// Saves a model as "base", gives it updates that matter, saves them as "adapter", merges them and returns the model.
  VisionLanguageModel prepare(const ModelConfig& config, const LoraConfig& lora, bool train_projector) {
    VisionLanguageModel model(config, 3);
    scatter_weights(*model, 5);
    save_model(model, at("tokenizer.model"), at("base"));
    add_lora(*model, lora, 8);
    std::vector<std::string> trainable = {"*.lora_a", "*.lora_b"};
    if (train_projector) trainable.push_back("projector.*");
    set_trainable(*model, trainable);
    {
      const torch::NoGradGuard no_grad;
      torch::manual_seed(4);
      for (auto& item : model->named_parameters()) {
        const bool learned = item.key().ends_with("lora_b") || (train_projector && item.key().starts_with("projector."));
        if (learned) item.value().add_(torch::randn_like(item.value()), 0.2);
      }
    }
    save_adapter(*model, config, lora, "a release", at("adapter"));
    merge_lora(*model);
    return model;
  }

  void expect_weights(const std::string& folder, const VisionLanguageModel& model) {
    const SafetensorsFolder weights(folder);
    for (const auto& item : model->named_parameters()) {
      const TensorView& view = weights.tensors().at(item.key());
      ASSERT_EQ(view.bytes.size(), item.value().nbytes());
      const torch::Tensor stored = torch::from_blob(const_cast<std::byte*>(view.bytes.data()), item.value().sizes(), torch::kFloat32).clone();
      EXPECT_LT(relative_difference(stored, item.value().detach()), 1e-6) << item.key();
    }
  }

  std::string root_;
};

TEST_F(AdapterFolder, HasPeftsNamesOfTheReleasedModules) {
  prepare(tiny_config(), lora_of(4, {"language.layers.*.q_proj", "vision_encoder.blocks.0.mlp.fc1"}), false);
  const SafetensorsFile file(at("adapter") + "/adapter_model.safetensors");
  std::vector<std::string> names;
  for (const auto& [name, tensor] : file.tensors()) names.push_back(name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"base_model.model.llm.model.layers.0.self_attn.q_proj.lora_A.weight",
                                      "base_model.model.llm.model.layers.0.self_attn.q_proj.lora_B.weight",
                                      "base_model.model.llm.model.layers.1.self_attn.q_proj.lora_A.weight",
                                      "base_model.model.llm.model.layers.1.self_attn.q_proj.lora_B.weight",
                                      "base_model.model.vpm.encoder.layers.0.mlp.fc1.lora_A.weight",
                                      "base_model.model.vpm.encoder.layers.0.mlp.fc1.lora_B.weight"}));
  EXPECT_EQ(file.at(names[0]).shape, (std::vector<std::int64_t>{4, 32}));
  EXPECT_EQ(file.at(names[5]).shape, (std::vector<std::int64_t>{40, 4}));
  const Json config = read_json(at("adapter") + "/adapter_config.json");
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8.0);
  EXPECT_EQ(config["bias"], "none");
  EXPECT_EQ(config["base_model_name_or_path"], "a release");
  EXPECT_EQ(config["target_modules"],
            Json({"vpm.encoder.layers.0.mlp.fc1", "llm.model.layers.0.self_attn.q_proj", "llm.model.layers.1.self_attn.q_proj"}));
  EXPECT_TRUE(config["modules_to_save"].is_null());
}

TEST_F(AdapterFolder, MergedIntoTheCheckpointItIsTheModelThatLearned) {
  for (const ModelConfig& config : {tiny_config(), tiny_clip_config()}) {
    fs::remove_all(at("base"));
    fs::remove_all(at("adapter"));
    fs::remove_all(at("merged"));
    const VisionLanguageModel model = prepare(config, lora_of(3, {"language.layers.*_proj"}), true);
    const MergedAdapter merged = merge_adapter(at("base"), at("adapter"), at("merged"));
    EXPECT_EQ(merged.layers, 14);
    EXPECT_GT(merged.replaced, 5);
    expect_weights(at("merged"), model);
    EXPECT_EQ(read_file(at("merged") + "/config.json"), read_file(at("base") + "/config.json"));
    EXPECT_EQ(read_file(at("merged") + "/tokenizer.model"), "any bytes");
    const Json config_json = read_json(at("adapter") + "/adapter_config.json");
    EXPECT_EQ(config_json["modules_to_save"], Json({config.family == "mobilevlm-v2" ? "mm_projector" : "resampler"}));
  }
}

TEST_F(AdapterFolder, AnAdapterOfAnotherModelIsRefused) {
  prepare(tiny_config(), lora_of(3, {"language.layers.*.q_proj"}), false);
  ModelConfig wider = tiny_config();
  wider.language.num_heads = 8;
  save_model(VisionLanguageModel(wider, 1), at("tokenizer.model"), at("wider"));
  EXPECT_NE(error_of([&] { merge_adapter(at("wider"), at("adapter"), at("out")); }).find("has shape [32, 32], but"), std::string::npos);
  save_model(VisionLanguageModel(tiny_clip_config(), 1), at("tokenizer.model"), at("clip"));
  EXPECT_NE(error_of([&] { merge_adapter(at("clip"), at("adapter"), at("out")); }).find("it belongs to another model"), std::string::npos);
  EXPECT_FALSE(fs::exists(at("out")));
  const std::string path = at("adapter") + "/adapter_config.json";
  const Json config = read_json(path);
  const auto with = [&](const char* key, const Json& value) {
    Json changed = config;
    changed[key] = value;
    write_json(path, changed);
    return error_of([&] { merge_adapter(at("base"), at("adapter"), at("out")); });
  };
  EXPECT_NE(with("peft_type", "IA3").find("peft_type is \"IA3\"; only LORA adapters can be merged"), std::string::npos);
  EXPECT_NE(with("rank_pattern", {{"q_proj", 2}}).find("rank_pattern is"), std::string::npos);
  EXPECT_NE(with("use_dora", true).find("use_dora is true"), std::string::npos);
  EXPECT_NE(with("bias", "all").find("bias is \"all\""), std::string::npos);
  EXPECT_NE(with("r", 4).find("needs lora_A [4, in] and lora_B [out, 4]"), std::string::npos);
  EXPECT_NE(with("r", "x").find("r is not a number"), std::string::npos);
}

/// timm's query, key and value are one matrix in the release.
TEST_F(AdapterFolder, AFusedLayerHasNoPlaceInIt) {
  ModelConfig config = tiny_config();
  config.family = "minicpmv-2.0";
  config.vision.positions = "interpolated";
  config.vision.activation = "gelu_erf";
  config.projector.positions = "key_and_query";
  config.projector.num_queries = config.prompt.num_queries = 4;
  config.language.qkv_bias = false;
  ASSERT_TRUE(released_form(config).has_value());
  VisionLanguageModel model(config, 3);
  const LoraConfig lora = lora_of(2, {"vision_encoder.blocks.*.q_proj"});
  add_lora(*model, lora, 1);
  EXPECT_NE(error_of([&] { save_adapter(*model, config, lora, "", at("adapter")); }).find("keeps this layer inside vpm.blocks.0.attn.qkv.weight"),
            std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
