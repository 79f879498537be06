#include "trainer/feature_cache.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "tiny_stage.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

using Grids = std::vector<std::array<int64_t, 2>>;

std::string folder(const std::string& name) { return test::test_folder() + "/" + name; }

constexpr int64_t kPatchNumbers = 3 * 14 * 14;
constexpr int64_t kHidden = 32;  // of the tiny model's vision encoder

/// Patches of slices with these grids, the same for the same seed.
torch::Tensor patches_of(const Grids& grids, uint64_t seed) {
  torch::manual_seed(seed);
  int64_t patches = 0;
  for (const auto& grid : grids) patches += grid[0] * grid[1];
  return torch::randn({patches, kPatchNumbers});
}

class Features : public testing::TestWithParam<torch::Dtype> {
 protected:
  VisionLanguageModel model_{test::tiny_model_config(), 1};
};

TEST_P(Features, AreThoseOfTheModel) {
  const torch::NoGradGuard no_grad;
  const ComputeDtype guard(GetParam());
  const Grids grids = {{4, 4}, {2, 3}, {3, 2}};
  const torch::Tensor patches = patches_of(grids, 1);
  FeatureCache cache(model_, 1 << 20);
  const torch::Tensor first = cache.features(patches, grids);
  const torch::Tensor expected = model_->vision_features(patches, grids);
  ASSERT_EQ(first.sizes(), expected.sizes());
  EXPECT_EQ(first.scalar_type(), GetParam());
  // Products may round otherwise with other numbers of rows.
  const double bound = GetParam() == torch::kFloat32 ? 1e-6 : 1e-2;
  EXPECT_LT((first - expected).to(torch::kFloat32).norm().item<double>(), bound * expected.to(torch::kFloat32).norm().item<double>());
  EXPECT_EQ(cache.num_found(), 0);
  EXPECT_TRUE(torch::equal(cache.features(patches, grids), first));
  EXPECT_EQ(cache.num_found(), 3);
  EXPECT_EQ(cache.num_seen(), 6);

  // The same bits beside others and in another order, found or not.
  const std::vector<torch::Tensor> slices = patches.split_with_sizes({16, 6, 6});
  const Grids moved = {{3, 2}, {5, 5}, {4, 4}};
  const torch::Tensor others = torch::cat({slices[2], patches_of({{5, 5}}, 2), slices[0]});
  FeatureCache fresh(model_, 1 << 20);
  const torch::Tensor beside = fresh.features(others, moved);
  EXPECT_TRUE(torch::equal(beside.narrow(0, 0, 6), first.narrow(0, 22, 6)));
  EXPECT_TRUE(torch::equal(beside.narrow(0, 31, 16), first.narrow(0, 0, 16)));
  EXPECT_TRUE(torch::equal(cache.features(others, moved), beside));
}

INSTANTIATE_TEST_SUITE_P(In, Features, testing::Values(torch::kFloat32, torch::kBFloat16), [](const auto& info) {
  return std::string(info.param == torch::kFloat32 ? "float32" : "bfloat16");
});

TEST(FeatureCache, TellsSlicesOfOtherFormOrContentApart) {
  VisionLanguageModel model(test::tiny_model_config(), 1);
  FeatureCache cache(model, 1 << 20);
  torch::Tensor patches = patches_of({{2, 3}}, 1);
  const torch::Tensor wide = cache.features(patches, {{2, 3}});
  EXPECT_FALSE(torch::equal(cache.features(patches, {{3, 2}}), wide));
  patches[5][100] += 1e-3F;  // one number
  EXPECT_FALSE(torch::equal(cache.features(patches, {{2, 3}}), wide));
  EXPECT_EQ(cache.num_found(), 0);
}

TEST(FeatureCache, KeepsWhatFitsAndLetsTheLeastRecentlyUsedGo) {
  VisionLanguageModel model(test::tiny_model_config(), 1);
  const Grids grid = {{2, 2}};
  const int64_t slice = 4 * kHidden * 4;  // bytes
  FeatureCache cache(model, 2 * slice + 10);
  const auto found = [&](uint64_t picture) {
    const int64_t before = cache.num_found();
    cache.features(patches_of(grid, picture), grid);
    return cache.num_found() > before;
  };
  EXPECT_FALSE(found(1));
  EXPECT_FALSE(found(2));
  EXPECT_TRUE(found(1));
  EXPECT_FALSE(found(3));  // in place of 2
  EXPECT_TRUE(found(1));
  EXPECT_FALSE(found(2));  // in place of 3
  EXPECT_FALSE(found(3));
  EXPECT_EQ(cache.bytes(), 2 * slice);
  cache.features(patches_of({{4, 4}}, 9), {{4, 4}});  // larger than all of it: not kept, nothing pushed out
  EXPECT_TRUE(found(3));
}

TEST(FeatureCache, KnowsWhatPaddingReleasedStripsSaw) {
  const torch::NoGradGuard no_grad;
  ModelConfig config = test::tiny_model_config();
  config.vision.strip_quirk = true;
  config.vision.positions = "bucketed";
  config.compat = "released";
  VisionLanguageModel model(config, 1);
  FeatureCache cache(model, 1 << 20);
  const Grids beside_long = {{2, 3}, {3, 4}}, beside_short = {{2, 3}, {2, 2}};
  for (const Grids& grids : {beside_long, beside_short}) {
    const torch::Tensor patches = patches_of(grids, 1);
    const torch::Tensor expected = model->vision_features(patches, grids);
    for (int time = 0; time < 2; ++time) {
      const torch::Tensor got = cache.features(patches, grids);
      EXPECT_LT((got - expected).norm().item<double>(), 1e-6 * expected.norm().item<double>());
    }
  }
  EXPECT_EQ(cache.num_found(), 4);
}

StageConfig cached_stage(const std::string& name, int64_t megabytes) {
  StageConfig config = test::tiny_stage(name);
  config.trainable = {"projector.*"};
  config.steps = 6;
  config.log_every = 1;
  config.feature_cache.megabytes = megabytes;
  return config;
}

/// Four pictures, again and again.
StageConfig few_pictures(const std::string& name, int64_t megabytes) {
  const std::string data = folder("few-pictures");
  make_folders(data);
  std::string lines;
  for (int i = 0; i < 4; ++i) {
    Image image(56, 56);
    for (auto& value : image.rgb) value = static_cast<uint8_t>(50 * i + 20);
    write_file_atomic(fmt::format("{}/{}.png", data, i), encode_png(image));
    lines += fmt::format(
        R"({{"id": "{0}", "image": "{0}.png", "conversations": [{{"from": "human", "value": "<image>\nwhat?"}}, )"
        R"({{"from": "gpt", "value": "a picture"}}]}})"
        "\n",
        i);
  }
  write_file_atomic(data + "/data.jsonl", lines);
  StageConfig config = cached_stage(name, megabytes);
  config.data.sources[0] = SourceConfig{};
  config.data.sources[0].kind = "conversations";
  config.data.sources[0].path = data + "/data.jsonl";
  return config;
}

TEST(FeatureCache, OfAStageChangesNothingButLastPlaces) {
  const auto losses = [](int64_t megabytes) {
    StageConfig config = few_pictures(fmt::format("features-{}", megabytes), megabytes);
    LoadedModel model = test::tiny_model(1);
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    run_stage(config, model, test::tiny_tokenizer_path(), folder(config.name));
    const std::string said = testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr();
    EXPECT_EQ(said.find("picture slices had their features cached") != std::string::npos, megabytes > 0) << said;
    EXPECT_EQ(said.find(": 0 of "), std::string::npos) << said;  // some were found
    return test::read_lines(folder(config.name) + "/metrics.jsonl");
  };
  const std::vector<Json> with = losses(4), without = losses(0);
  ASSERT_EQ(with.size(), without.size());
  for (std::size_t i = 0; i < with.size(); ++i) {
    const double wanted = without[i]["loss"].get<double>();
    EXPECT_NEAR(with[i]["loss"].get<double>(), wanted, 1e-5 * wanted);
  }
}

TEST(FeatureCache, OfAnInterruptedStageLeavesTheSameBits) {
  StageConfig config = few_pictures("features-pieces", 4);
  config.checkpoint_every = 2;
  LoadedModel model = test::tiny_model(1), resumed = test::tiny_model(1), whole = test::tiny_model(1);
  EXPECT_EQ(test::error_of([&] {
              run_stage(config, model, test::tiny_tokenizer_path(), folder("features-pieces"), [](int64_t step) {
                if (step == 5) fail("stopped");
              });
            }),
            "stopped");
  StageConfig smaller = config;
  smaller.feature_cache.megabytes = 1;
  run_stage(smaller, resumed, test::tiny_tokenizer_path(), folder("features-pieces"));  // with an empty cache
  run_stage(config, whole, test::tiny_tokenizer_path(), folder("features-whole"));
  EXPECT_EQ(read_file(folder("features-pieces") + "/checkpoint/model.safetensors"),
            read_file(folder("features-whole") + "/checkpoint/model.safetensors"));
}

TEST(FeatureCache, IsRefusedWhenTheEncoderLearns) {
  for (const bool lora : {false, true}) {
    StageConfig config = cached_stage(lora ? "features-lora" : "features-learn", 4);
    if (lora) {
      config.lora = LoraConfig{};
      config.lora->targets = {"vision_encoder.*"};
    } else {
      config.trainable = {"*"};
    }
    LoadedModel model = test::tiny_model(1);
    const std::string error =
        test::error_of([&] { run_stage(config, model, test::tiny_tokenizer_path(), folder(config.name)); });
    EXPECT_NE(error.find("feature_cache: vision_encoder."), std::string::npos) << error;
    EXPECT_NE(error.find("learns"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace pocketvlm
