#include "trainer/ema.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/files.h"
#include "model/lora.h"
#include "tiny_stage.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

constexpr double kDecay = 0.8;

std::string folder(const std::string& name) { return test::test_folder() + "/" + name; }

StageConfig averaged_stage(const std::string& name) {
  StageConfig config = test::tiny_stage(name);
  config.steps = 5;
  config.ema_decay = kDecay;
  return config;
}

std::map<std::string, torch::Tensor> weights_in(const std::string& checkpoint) {
  return test::copy_weights(load_model(checkpoint));
}

TEST(Ema, FollowsTheFormula) {
  const torch::Tensor weight = torch::tensor({1.0F, -2.0F});
  Ema ema(0.75, {whole_tensor("w", weight)});
  EXPECT_TRUE(torch::equal(ema.averages()[0].values, torch::tensor({1.0F, -2.0F})));
  torch::Tensor(weight).copy_(torch::tensor({5.0F, 2.0F}));
  ema.update();
  EXPECT_TRUE(torch::equal(ema.averages()[0].values, torch::tensor({2.0F, -1.0F})));
  torch::Tensor(weight).fill_(6.0F);
  ema.update();
  EXPECT_TRUE(torch::equal(ema.averages()[0].values, torch::tensor({3.0F, 0.75F})));
  EXPECT_EQ(ema.averages()[0].name, "w");
}

TEST(Ema, OfAStageIsTheAverageOfTheWeightsAfterEachStep) {
  const StageConfig config = averaged_stage("ema-by-hand");
  LoadedModel model = test::tiny_model(1);
  std::map<std::string, torch::Tensor> expected;
  for (const auto& [name, weight] : test::copy_weights(model)) expected[name] = weight.to(torch::kFloat64);
  const StageResult result =
      run_stage(config, model, test::tiny_tokenizer_path(), folder(config.name), [&](int64_t) {
        for (const auto& [name, weight] : test::copy_weights(model)) expected[name].mul_(kDecay).add_(weight, 1 - kDecay);
      });
  const auto averages = weights_in(folder(config.name) + "/checkpoint-ema");
  const auto last = weights_in(result.checkpoint);
  ASSERT_EQ(averages.size(), expected.size());
  for (const auto& [name, average] : averages) {
    const double size = expected[name].norm().item<double>();
    EXPECT_LT((average - expected[name]).norm().item<double>(), 1e-6 * size + 1e-7) << name;
    EXPECT_GT((average - last.at(name)).norm().item<double>(), 1e-5 * size) << name;
    EXPECT_TRUE(test::same_bits(last.at(name), test::copy_weights(model).at(name))) << name;
  }
}

TEST(Ema, ChangesNothingElse) {
  StageConfig config = averaged_stage("ema-on");
  LoadedModel with = test::tiny_model(1), without = test::tiny_model(1);
  run_stage(config, with, test::tiny_tokenizer_path(), folder("ema-on"));
  config.ema_decay = 0;
  run_stage(config, without, test::tiny_tokenizer_path(), folder("ema-off"));
  EXPECT_EQ(read_file(folder("ema-on") + "/checkpoint/model.safetensors"),
            read_file(folder("ema-off") + "/checkpoint/model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(folder("ema-off") + "/checkpoint-ema"));
}

TEST(Ema, OfAnInterruptedStageHasTheSameBits) {
  StageConfig config = averaged_stage("ema-interrupted");
  config.checkpoint_every = 2;
  LoadedModel model = test::tiny_model(1), resumed = test::tiny_model(1), whole = test::tiny_model(1);
  EXPECT_EQ(test::error_of([&] {
              run_stage(config, model, test::tiny_tokenizer_path(), folder("ema-pieces"), [&](int64_t step) {
                if (step == 3) fail("stopped");
              });
            }),
            "stopped");
  int64_t first_step = 0;
  run_stage(config, resumed, test::tiny_tokenizer_path(), folder("ema-pieces"), [&](int64_t step) {
    if (first_step == 0) first_step = step;
  });
  EXPECT_EQ(first_step, 3);
  run_stage(config, whole, test::tiny_tokenizer_path(), folder("ema-whole"));
  EXPECT_EQ(read_file(folder("ema-pieces") + "/checkpoint-ema/model.safetensors"),
            read_file(folder("ema-whole") + "/checkpoint-ema/model.safetensors"));
}

TEST(Ema, OfLowRankUpdatesIsMerged) {
  StageConfig config = averaged_stage("ema-lora");
  config.trainable = {"projector.*"};
  config.lora = LoraConfig{};
  config.lora->rank = 2;
  LoadedModel model = test::tiny_model(1);
  const auto before = test::copy_weights(model);
  std::map<std::string, torch::Tensor> averages;
  const auto note = [&](double decay) {
    for (const auto& [name, weight] : test::copy_weights(model)) {
      torch::Tensor& average = averages[name];
      average = average.defined() ? average * decay + weight * (1 - decay) : weight;
    }
  };
  // The averages begin as the factors of step 0, which the stage draws itself.
  LoadedModel begun = test::tiny_model(1);
  add_lora(*begun.model, *config.lora, config.seed);
  averages = test::copy_weights(begun);
  run_stage(config, model, test::tiny_tokenizer_path(), folder(config.name), [&](int64_t) { note(kDecay); });
  const auto merged = weights_in(folder(config.name) + "/checkpoint-ema");
  const auto last = weights_in(folder(config.name) + "/checkpoint");
  int64_t updated = 0;
  for (const auto& [name, weight] : merged) {
    torch::Tensor expected = averages.at(name);
    const std::string layer = name.substr(0, name.rfind('.'));
    if (averages.count(layer + ".lora_a") != 0 && name == layer + ".weight") {
      ++updated;
      const double scale = config.lora->alpha / static_cast<double>(config.lora->rank);
      expected = before.at(name) + torch::mm(averages.at(layer + ".lora_b"), averages.at(layer + ".lora_a")) * scale;
      EXPECT_GT((weight - last.at(name)).norm().item<double>(), 0) << name;
    }
    EXPECT_LT((weight - expected).norm().item<double>(), 1e-6 * expected.norm().item<double>() + 1e-7) << name;
  }
  EXPECT_GT(updated, 0);
}

}  // namespace
}  // namespace pocketvlm
