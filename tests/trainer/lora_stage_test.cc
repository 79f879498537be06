#include <gtest/gtest.h>

#include <filesystem>

#include "base/files.h"
#include "model/adapter.h"
#include "tiny_stage.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

StageConfig lora_stage(const std::string& name) {
  StageConfig config = test::tiny_stage(name);
  config.trainable = {"projector.*"};
  config.lora.emplace();
  config.lora->rank = 2;
  config.lora->alpha = 4;
  config.lora->dropout = 0.1;
  config.lora->targets = {"language.layers.*.self_attn.*_proj"};
  config.steps = 8;
  config.checkpoint_every = 3;
  return config;
}

std::string folder(const StageConfig& config) { return test::test_folder() + "/" + config.name; }

TEST(LoraStage, TrainsUpdatesBesideWhatIsNamedAndSavesThemMergedAndAlone) {
  const StageConfig config = lora_stage("lora");
  LoadedModel model = test::tiny_model(1);
  const auto before = test::copy_weights(model);
  const std::string start = test::test_folder() + "/lora-start";
  save_model(model.model, test::tiny_tokenizer_path(), start);
  const StageResult result = run_stage(config, model, test::tiny_tokenizer_path(), folder(config));

  // 2 layers of query and output [32, 32], key and value [16, 32]: two factors of rank 2 each.
  int64_t language = 0;
  for (const ComponentRow& row : result.components) {
    EXPECT_TRUE(row.frozen_identical);
    if (row.component == "language") language = row.trainable_parameters;
    if (row.component == "vision_encoder") {
      EXPECT_EQ(row.trainable_parameters, 0);
    }
  }
  EXPECT_EQ(language, 2 * 2 * (2 * (32 + 32) + 2 * (16 + 32)));

  const LoadedModel trained = load_model(result.checkpoint);
  for (const auto& item : trained.model->named_parameters()) {
    const bool target = item.key().find("self_attn") != std::string::npos && item.key().starts_with("language.");
    const bool learned = target || item.key().starts_with("projector.");
    EXPECT_EQ(test::same_bits(item.value().detach(), before.at(item.key())), !learned) << item.key();
  }
  const std::string merged = test::test_folder() + "/lora-merged";
  EXPECT_EQ(merge_adapter(start, folder(config) + "/adapter", merged).layers, 8);
  const LoadedModel from_adapter = load_model(merged);
  const auto parameters = from_adapter.model->named_parameters();
  for (const auto& item : trained.model->named_parameters()) {
    EXPECT_LT((parameters[item.key()] - item.value()).abs().max().item<double>(), 1e-6) << item.key();
  }
}

TEST(LoraStage, AnInterruptedOneEndsWithTheSameBits) {
  StageConfig whole = lora_stage("lora-whole"), cut = lora_stage("lora-cut");
  LoadedModel first = test::tiny_model(1), second = test::tiny_model(1), third = test::tiny_model(1);
  whole.name = cut.name = "lora-same";
  const std::string whole_folder = test::test_folder() + "/lora-whole", cut_folder = test::test_folder() + "/lora-cut";
  run_stage(whole, first, test::tiny_tokenizer_path(), whole_folder);
  struct Stop {};
  EXPECT_THROW(run_stage(cut, second, test::tiny_tokenizer_path(), cut_folder, [](int64_t step) { if (step == 5) throw Stop{}; }), Stop);
  run_stage(cut, third, test::tiny_tokenizer_path(), cut_folder);
  for (const char* file : {"/checkpoint/model.safetensors", "/adapter/adapter_model.safetensors"}) {
    EXPECT_EQ(read_file(whole_folder + file), read_file(cut_folder + file)) << file;
  }
}

TEST(LoraStage, MistakesAreNamed) {
  StageConfig config = lora_stage("lora-mistakes");
  config.lora->targets = {"language.layers.*.qq_proj"};
  LoadedModel model = test::tiny_model(1);
  EXPECT_NE(test::error_of([&] { run_stage(config, model, test::tiny_tokenizer_path(), folder(config)); }).find("qq_proj"), std::string::npos);
  StageConfig contrastive = test::tiny_contrastive_stage("lora-contrastive");
  contrastive.lora.emplace();
  EXPECT_NE(test::error_of([&] { contrastive.validate("stage"); }).find("stage.lora: no effect on the contrastive objective"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
