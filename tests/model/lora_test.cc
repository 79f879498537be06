#include "model/lora.h"

#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

Batch some_batch(const ModelConfig& config) {
  Random random({21});
  return to_batch(pack({as_sample(random_chat(config, random, 20, {{4, 4}}), 1.0F)}));
}

TEST(Lora, ChangesNothingAtFirstAndTrainsOnlyTheUpdates) {
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const Batch batch = some_batch(config);
  const torch::Tensor before = model->hidden_states(batch);
  LoraConfig lora;
  lora.rank = 4;
  const std::vector<std::string> names = add_lora(*model, lora, 8);
  EXPECT_EQ(names.size(), 7 * 2);
  EXPECT_EQ(names.front(), "language.layers.0.self_attn.q_proj");
  EXPECT_TRUE(torch::equal(model->hidden_states(batch), before));
  EXPECT_EQ(set_trainable(*model, {"*.lora_a", "*.lora_b"}).size(), 2 * names.size());
  model->loss_sum(batch).backward();
  EXPECT_FALSE(model->language->output_weight().grad().defined());
  EXPECT_GT(model->named_parameters()[names[0] + ".lora_b"].grad().abs().max().item<double>(), 0.0);
}

TEST(Lora, MergedWeightsGiveTheSameResults) {
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const Batch batch = some_batch(config);
  LoraConfig lora;
  lora.rank = 3;
  lora.alpha = 5.0;
  lora.targets = {"language.layers.*.q_proj", "language.layers.0.mlp.*", "vision_encoder.blocks.1.attn.v_proj"};
  add_lora(*model, lora, 8);
  const torch::Tensor plain = model->hidden_states(batch);
  {
    torch::NoGradGuard no_grad;
    for (auto& item : model->named_parameters()) {
      if (item.key().ends_with("lora_b")) item.value().normal_(0.0, 0.3);
    }
  }
  const torch::Tensor updated = model->hidden_states(batch);
  EXPECT_GT(relative_difference(updated, plain), 1e-2);
  merge_lora(*model);
  EXPECT_LT(relative_difference(model->hidden_states(batch), updated), 1e-5);
  for (const auto& item : model->named_parameters()) EXPECT_EQ(item.key().find("lora"), std::string::npos);
}

TEST(Lora, DropoutActsInTrainingOnly) {
  Linear linear(16, 16, false);
  linear->add_lora(torch::randn({4, 16}), 1.0, 0.5);
  {
    torch::NoGradGuard no_grad;
    linear->lora_b.normal_();
  }
  const torch::Tensor x = torch::randn({8, 16});
  linear->eval();
  EXPECT_TRUE(torch::equal(linear->forward(x), linear->forward(x)));
  linear->train();
  EXPECT_FALSE(torch::equal(linear->forward(x), linear->forward(x)));
}

TEST(Lora, MistakesAreNamed) {
  VisionLanguageModel model(tiny_config(), 3);
  LoraConfig lora;
  lora.targets = {"language.layers.*.qq_proj"};
  EXPECT_NE(error_of([&] { add_lora(*model, lora, 0); }).find("qq_proj"), std::string::npos);
  lora.targets = {};
  EXPECT_NE(error_of([&] { add_lora(*model, lora, 0); }).find("lora.targets"), std::string::npos);
  lora.targets = {"language.layers.*.q_proj"};
  add_lora(*model, lora, 0);
  EXPECT_NE(error_of([&] { add_lora(*model, lora, 0); }).find("merge it first"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
