#include <cstdlib>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "model/name_patterns.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

TEST(ModelConfig, CountsEveryParameterOfEveryFamily) {
  std::vector<ModelConfig> configs = {tiny_config(), tiny_clip_config()};
  configs.push_back(tiny_clip_config());
  configs.back().projector.kind = "ldp";
  configs.push_back(tiny_clip_config());
  configs.back().projector.kind = "mlp";
  configs.push_back(tiny_config());
  configs.back().language.tied_embeddings = true;
  configs.back().vision.pre_norm = true;
  for (const ModelConfig& config : configs) {
    VisionLanguageModel model(config, 0);
    const auto count = [](torch::nn::Module& module) {
      int64_t total = 0;
      for (const torch::Tensor& parameter : module.parameters()) total += parameter.numel();
      return total;
    };
    const ParameterCounts counts = count_parameters(config);
    EXPECT_EQ(counts.vision_encoder, count(*model->vision_encoder)) << config.projector.kind;
    EXPECT_EQ(counts.projector, count(*model->projector)) << config.projector.kind;
    EXPECT_EQ(counts.language, count(*model->language)) << config.projector.kind;
    EXPECT_EQ(counts.total(), count(*model));
  }
}

TEST(ModelConfig, CountsTheReleasedModelsExactly) {
  ModelConfig config;  // MiniCPM-V 2.6 is the default of vision and projector
  config.language.vocab = 151666;
  config.language.hidden = 3584;
  config.language.num_layers = 28;
  config.language.num_heads = 28;
  config.language.num_kv_heads = 4;
  config.language.head_dim = 128;
  config.language.ffn = 18944;
  config.language.qkv_bias = true;
  config.language.tied_embeddings = false;
  const ParameterCounts counts = count_parameters(config);
  EXPECT_EQ(counts.vision_encoder, 417792240);
  EXPECT_EQ(counts.projector, 68619264);
  EXPECT_EQ(counts.language, 7612763648);
  EXPECT_EQ(counts.total(), 8099175152);
  EXPECT_EQ(ldp_squeeze_channels(2048), 512);
  EXPECT_EQ(ldp_squeeze_channels(2560), 640);
  config.projector.kind = "ldp";
  config.vision.hidden = 1024;
  config.language.hidden = 2560;
  EXPECT_EQ(count_parameters(config).projector, 28913920);
}

struct Mistake {
  std::function<void(ModelConfig&)> make;
  std::string path;
};

TEST(ModelConfig, CrossFieldMistakesNameThePath) {
  const std::vector<Mistake> mistakes = {
      {[](ModelConfig& c) { c.vision.num_heads = 5; }, "c.vision: hidden 24"},
      {[](ModelConfig& c) { c.vision.class_token = true; }, "c.vision.class_token"},
      {[](ModelConfig& c) { c.vision.positions = "fixed"; }, "c.vision.positions"},
      {[](ModelConfig& c) {
         c.image.mode = "pad_square";
         c.vision.positions = "fixed";
         c.vision.position_side = 7;
       },
       "c.vision.position_side: 7"},
      {[](ModelConfig& c) { c.prompt.num_queries = 6; }, "c.prompt.num_queries: 6"},
      {[](ModelConfig& c) { c.projector.num_heads = 5; }, "c.projector.num_heads: 5"},
      {[](ModelConfig& c) { c.projector.positions = "key_and_query"; }, "c.projector.num_queries: 5"},
      {[](ModelConfig& c) { c.projector.kind = "mlp"; }, "c.projector.kind"},
      {[](ModelConfig& c) {
         c.projector.kind = "ldpv2";
         c.image.mode = "squash";
       },
       "c.projector.num_queries: 5 must be 9"},
      {[](ModelConfig& c) {
         c.projector.kind = "mlp";
         c.image.mode = "squash";
       },
       "c.projector.num_queries: 5 must be 36"},
      {[](ModelConfig& c) { c.language.num_kv_heads = 3; }, "c.language.num_kv_heads: 3"},
      {[](ModelConfig& c) { c.language.head_dim = 7; }, "c.language.head_dim: 7"},
      {[](ModelConfig& c) { c.language.scale_logits = 0.0; }, "c.language.scale_logits"},
      {[](ModelConfig& c) { c.image.scale_resolution = 3; }, "c.image.scale_resolution: 3"},
      {[](ModelConfig& c) {
         c.image.mode = "squash";
         c.image.image_size = 25;
       },
       "c.image.image_size: 25"},
      {[](ModelConfig& c) { c.language.max_positions = 5; }, "c.language.max_positions: 5"},
  };
  EXPECT_NO_THROW(tiny_config().validate("c"));
  EXPECT_NO_THROW(tiny_clip_config().validate("c"));
  for (const Mistake& mistake : mistakes) {
    ModelConfig config = tiny_config();
    mistake.make(config);
    const std::string error = error_of([&] { config.validate("c"); });
    EXPECT_NE(error.find(mistake.path), std::string::npos) << error << "\nshould name " << mistake.path;
  }
}

TEST(ModelConfig, PresetsAreFoundByNameAndMisspellingsAnswered) {
  namespace fs = std::filesystem;
  const std::string folder = testing::TempDir() + "/presets";
  fs::create_directories(folder);
  write_json(folder + "/tiny-siglip.json", config_to_json(tiny_config()));
  setenv("POCKETVLM_CONFIGS", folder.c_str(), 1);
  EXPECT_EQ(load_model_config("tiny-siglip").language.vocab, 300);
  EXPECT_EQ(load_model_config(folder + "/tiny-siglip.json").language.vocab, 300);
  const std::string error = error_of([&] { load_model_config("tiny-siglib"); });
  EXPECT_NE(error.find("did you mean \"tiny-siglip\"?"), std::string::npos) << error;
  EXPECT_NE(error_of([&] { load_model_config(folder + "/none.json"); }).find("none.json"), std::string::npos);
  unsetenv("POCKETVLM_CONFIGS");
}

TEST(NamePatterns, StarsStandForAnyRun) {
  EXPECT_TRUE(matches_pattern("language.layers.3.mlp.up_proj.weight", "language.*"));
  EXPECT_TRUE(matches_pattern("language.layers.3.mlp.up_proj.weight", "*.up_proj.*"));
  EXPECT_TRUE(matches_pattern("language.layers.3.mlp.up_proj", "language.layers.*_proj"));
  EXPECT_TRUE(matches_pattern("abcabc", "*abc"));
  EXPECT_TRUE(matches_pattern("", "*"));
  EXPECT_FALSE(matches_pattern("projector.query", "projector"));
  EXPECT_FALSE(matches_pattern("projector.query", "*.quer"));
  EXPECT_FALSE(matches_pattern("ab", "a*b*c"));
}

}  // namespace
}  // namespace pocketvlm
