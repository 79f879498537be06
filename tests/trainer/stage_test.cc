#include "trainer/stage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/files.h"
#include "base/random.h"
#include "tiny_stage.h"
#include "trainer/optimizer.h"

namespace pocketvlm {
namespace {

std::string folder(const std::string& name) { return test::test_folder() + "/" + name; }

StageResult run(const StageConfig& config,
                LoadedModel& model,
                const std::function<void(int64_t)>& after_step = {}) {
  return run_stage(config, model, test::tiny_tokenizer_path(), folder(config.name), after_step);
}

struct FreezeCase {
  const char* name;
  std::vector<std::string> trainable;
  std::vector<std::string> components;  // that learn
};

class FreezeSchedule : public testing::TestWithParam<FreezeCase> {};

TEST_P(FreezeSchedule, LeavesFrozenTensorsBitIdenticalAndMovesTheOthers) {
  const FreezeCase& schedule = GetParam();
  LoadedModel model = test::tiny_model(1);
  const auto before = test::copy_weights(model);
  StageConfig config = test::tiny_stage(std::string("freeze-") + schedule.name);
  config.trainable = schedule.trainable;
  const StageResult result = run(config, model);

  std::map<std::string, int64_t> moved, total;
  for (const auto& [name, weight] : test::copy_weights(model)) {
    const std::string component = name.substr(0, name.find('.'));
    ++total[component];
    moved[component] += test::same_bits(weight, before.at(name)) ? 0 : 1;
  }
  ASSERT_EQ(result.components.size(), 3U);
  for (const ComponentRow& row : result.components) {
    const bool learns =
        std::count(schedule.components.begin(), schedule.components.end(), row.component) > 0;
    EXPECT_EQ(row.tensors, total[row.component]);
    EXPECT_EQ(row.trainable_tensors, learns ? row.tensors : 0) << row.component;
    EXPECT_EQ(row.trainable_parameters, learns ? row.parameters : 0) << row.component;
    EXPECT_TRUE(row.frozen_identical);
    if (learns) {
      EXPECT_GE(moved[row.component], row.tensors - 1) << row.component;
    } else {
      EXPECT_EQ(moved[row.component], 0) << row.component;
    }
  }
  // What was saved is what is in memory.
  LoadedModel loaded = load_model(result.checkpoint);
  for (const auto& [name, weight] : test::copy_weights(model)) {
    EXPECT_TRUE(test::same_bits(weight, test::copy_weights(loaded).at(name))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    OfThePaper,
    FreezeSchedule,
    testing::Values(
        FreezeCase{"stage1", {"projector.*"}, {"projector"}},
        FreezeCase{"stage2", {"vision_encoder.*"}, {"vision_encoder"}},
        FreezeCase{"stage3", {"vision_encoder.*", "projector.*"}, {"vision_encoder", "projector"}},
        FreezeCase{"sft", {"*"}, {"vision_encoder", "projector", "language"}},
        FreezeCase{"language", {"language.*"}, {"language"}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Stage, RefusesToFinishWhenAFrozenTensorWasTouched) {
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("touched");
  config.trainable = {"projector.*"};
  const std::string error = test::error_of([&] {
    run(config, model, [&](int64_t step) {
      if (step != 2) return;
      // The smallest change there is: the last bit of one number.
      float& number = *model.model->named_parameters()["language.norm.weight"].data_ptr<float>();
      number = std::nextafter(number, 2.0F);
    });
  });
  EXPECT_NE(error.find("frozen tensor language.norm.weight changed"), std::string::npos) << error;
  EXPECT_FALSE(std::filesystem::exists(folder("touched") + "/result.json"));
  EXPECT_FALSE(std::filesystem::exists(folder("touched") + "/checkpoint"));
}

TEST(Stage, LowersTheLossOnCaptions) {
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("learns");
  config.optimizer.learning_rate = 1e-2;
  config.steps = 60;
  config.log_every = 10;
  const StageResult result = run(config, model);
  EXPECT_LT(result.final_loss, 0.6 * result.first_loss);
  EXPECT_GT(result.samples, 60);
  EXPECT_EQ(result.steps, 60);

  const std::vector<Json> lines = test::read_lines(folder("learns") + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 6U);
  for (const char* key :
       {"step", "loss", "learning_rate", "grad_norm", "tokens_per_s", "images_per_s", "seconds"}) {
    EXPECT_TRUE(lines[0].contains(key)) << key;
  }
  EXPECT_EQ(lines.back()["step"], 60);
  EXPECT_LT(lines.back()["loss"].get<double>(), lines.front()["loss"].get<double>());
  const StageResult read =
      StageResult::from_json(read_json(folder("learns") + "/result.json"), "result.json");
  EXPECT_EQ(read.final_loss, result.final_loss);
  EXPECT_FALSE(std::filesystem::exists(folder("learns") + "/state"));
}

TEST(Stage, LowersTheContrastiveLossAndLeavesNoHeadsBehind) {
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_contrastive_stage("contrastive-learns");
  config.optimizer.learning_rate = 5e-3;
  config.steps = 80;
  config.log_every = 10;
  const StageResult result = run(config, model);
  const std::vector<Json> lines = test::read_lines(folder("contrastive-learns") + "/metrics.jsonl");
  EXPECT_LT(result.final_loss, 0.7 * lines[1]["loss"].get<double>());
  EXPECT_GT(result.images_per_s, 0);
  for (const auto& item : load_model(result.checkpoint).model->named_parameters()) {
    EXPECT_EQ(item.key().find("contrastive"), std::string::npos);
  }
}

TEST(Stage, WorksInBf16) {
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("bf16");
  config.compute_dtype = "bf16";
  const StageResult result = run(config, model);
  EXPECT_TRUE(std::isfinite(result.final_loss));
  for (const auto& item : model.model->named_parameters())
    EXPECT_EQ(item.value().scalar_type(), torch::kFloat32);
}

/// Many packs as one.
PackedBatch joined(const std::vector<PackedBatch>& packs) {
  PackedBatch all;
  for (const PackedBatch& pack : packs) {
    const int64_t first_token = all.num_tokens();
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    const auto first_row = static_cast<int64_t>(all.grids.size()) * 4;
    for (const int64_t position : pack.visual_positions)
      all.visual_positions.push_back(first_token + position);
    for (const int64_t row : pack.visual_rows) all.visual_rows.push_back(first_row + row);
    append(all.input_ids, pack.input_ids);
    append(all.position_ids, pack.position_ids);
    append(all.labels, pack.labels);
    append(all.loss_weights, pack.loss_weights);
    append(all.segment_lengths, pack.segment_lengths);
    append(all.patches, pack.patches);
    append(all.grids, pack.grids);
    append(all.segment_slices, pack.segment_slices);
    append(all.sample_ids, pack.sample_ids);
  }
  return all;
}

TEST(Stage, FourAccumulatedPacksEqualOneOfAllTheirSamples) {
  StageConfig config = test::tiny_stage("accumulated");
  config.accumulation = 4;
  config.steps = 3;
  config.log_every = 1;
  config.seed = 5;
  LoadedModel accumulated = test::tiny_model(1);
  run(config, accumulated);

  const std::vector<Json> lines = test::read_lines(folder("accumulated") + "/metrics.jsonl");

  LoadedModel whole = test::tiny_model(1);
  LoaderConfig data = config.data;
  data.seed = mix_keys({config.seed, config.data.seed});
  PackedLoader loader(data, *whole.encoder);
  std::vector<std::pair<std::string, torch::Tensor>> parameters;
  for (const auto& item : whole.model->named_parameters())
    parameters.emplace_back(item.key(), item.value());
  Optimizer optimizer(config.optimizer, parameters, config.steps);
  for (int64_t step = 0; step < config.steps; ++step) {
    std::vector<PackedBatch> packs;
    for (int64_t i = 0; i < 4; ++i) packs.push_back(loader.next());
    const PackedBatch pack = joined(packs);
    double weight = 0;
    for (const float target : pack.loss_weights) weight += target;
    const torch::Tensor loss = whole.model->loss_sum(to_batch(pack));
    loss.backward();
    const double grad_norm = optimizer.step(1.0 / weight);
    const Json& line = lines.at(static_cast<std::size_t>(step));
    EXPECT_NEAR(line["loss"].get<double>(),
                loss.item<double>() / weight,
                1e-6 * loss.item<double>() / weight);
    EXPECT_NEAR(line["grad_norm"].get<double>(), grad_norm, 1e-5 * grad_norm);
    EXPECT_DOUBLE_EQ(line["fill"].get<double>(),
                     static_cast<double>(pack.num_tokens()) / (4.0 * static_cast<double>(data.batch_tokens)));
  }
  const auto expected = test::copy_weights(whole);
  for (const auto& [name, weight] : test::copy_weights(accumulated)) {
    // Adam turns tiny gradients into whole steps, so single entries may differ by more than
    // rounding of the sum.
    EXPECT_LT((weight - expected.at(name)).abs().mean().item<double>(), 1e-6) << name;
  }
}

TEST(Stage, StopsBeforeTheUpdateWhenTheLossIsNotANumber) {
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("nan");
  config.checkpoint_every = 1;
  std::map<std::string, torch::Tensor> before;
  const std::string error = test::error_of([&] {
    run(config, model, [&](int64_t step) {
      if (step != 2) return;
      const torch::NoGradGuard no_grad;
      model.model->named_parameters()["language.norm.weight"].fill_(
          std::numeric_limits<float>::quiet_NaN());
      before = test::copy_weights(model);
    });
  });
  EXPECT_NE(error.find("step 3: the loss is nan"), std::string::npos) << error;
  for (const auto& [name, weight] : test::copy_weights(model))
    EXPECT_TRUE(test::same_bits(weight, before.at(name))) << name;

  // The state of step 2 is good: the stage can end from there.
  LoadedModel fresh = test::tiny_model(1);
  int64_t first_step = 0;
  run(config, fresh, [&](int64_t step) { first_step = first_step == 0 ? step : first_step; });
  EXPECT_EQ(first_step, 3);
}

TEST(Stage, SkipsBadStepsAsLongAsTheGuardAllows) {
  StageConfig config = test::tiny_stage("guarded");
  config.steps = 6;
  config.guard.max_bad_steps = 1;
  config.log_every = 1;
  LoadedModel model = test::tiny_model(1);
  torch::Tensor norm = model.model->named_parameters()["language.norm.weight"];
  float kept = 0;
  std::map<std::string, torch::Tensor> before;
  const StageResult result = run(config, model, [&](int64_t step) {
    const torch::NoGradGuard no_grad;
    if (step == 2) {  // the third step sees a NaN
      kept = norm[0].item<float>();
      norm[0] = std::numeric_limits<float>::quiet_NaN();
      before = test::copy_weights(model);
    } else if (step == 3) {
      for (const auto& [name, weight] : test::copy_weights(model)) EXPECT_TRUE(test::same_bits(weight, before.at(name))) << name;
      norm[0] = kept;
    }
  });
  EXPECT_EQ(result.steps, 6);
  EXPECT_EQ(result.bad_steps, 1);
  EXPECT_TRUE(std::isfinite(result.final_loss));
  const std::vector<Json> lines = test::read_lines(folder("guarded") + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_EQ(lines[2]["skipped"], "the loss is nan");
  EXPECT_FALSE(lines[2].contains("loss"));
  EXPECT_TRUE(lines[3].contains("loss"));
}

TEST(Stage, IsLoadedNotRunWhenItIsFinished) {
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("finished");
  const StageResult first = run(config, model);
  const auto trained = test::copy_weights(model);

  LoadedModel again = test::tiny_model(2);
  config.threads = 2;  // what cannot change the result may differ
  const StageResult second =
      run(config, again, [](int64_t) { FAIL() << "a finished stage was run again"; });
  EXPECT_EQ(second.to_json(), first.to_json());
  for (const auto& [name, weight] : test::copy_weights(again))
    EXPECT_TRUE(test::same_bits(weight, trained.at(name))) << name;

  config.optimizer.learning_rate = 1e-4;
  const std::string error = test::error_of([&] { run(config, again); });
  EXPECT_NE(error.find("optimizer/learning_rate"), std::string::npos) << error;
}

TEST(Stage, SaysWhenTheDeviceItNeedsIsMissing) {
  if (torch::hasCUDA()) GTEST_SKIP() << "this machine has a CUDA device";
  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("no-device");
  config.device = "cuda";
  EXPECT_NE(test::error_of([&] { run(config, model); }).find("no CUDA device is usable"),
            std::string::npos);
}

TEST(Stage, SkipsCountsAndListsDamagedSamples) {
  const std::string data = folder("damaged-data");
  make_folders(data);
  write_file_atomic(data + "/good.png", encode_png(Image(56, 56)));
  write_file_atomic(data + "/bad.png", "not a picture");
  std::string lines;
  for (const char* image : {"good.png", "bad.png", "good.png"}) {
    lines += fmt::format(
        R"({{"id": "x", "image": "{}", "conversations": [{{"from": "human", "value": "<image>\nwhat?"}}, )"
        R"({{"from": "gpt", "value": "a picture"}}]}})"
        "\n",
        image);
  }
  write_file_atomic(data + "/data.jsonl", lines);

  LoadedModel model = test::tiny_model(1);
  StageConfig config = test::tiny_stage("damaged");
  config.data.sources[0] = SourceConfig{};
  config.data.sources[0].kind = "conversations";
  config.data.sources[0].path = data + "/data.jsonl";
  const StageResult result = run(config, model);
  EXPECT_GT(result.skipped, 0);
  const std::vector<Json> skipped = test::read_lines(folder("damaged") + "/skipped.jsonl");
  ASSERT_EQ(skipped.size(), 1U);
  EXPECT_NE(skipped[0].dump().find("data.jsonl"), std::string::npos) << skipped[0];
}

/// The share of its time in which a stage on these data waited for packs.
double loading_wait(const std::string& name, const SourceConfig& source) {
  StageConfig config = test::tiny_stage(name);
  config.data.sources = {source};
  config.trainable = {"language.*"};
  config.data.workers = 0;  // nothing is read ahead
  config.steps = config.log_every = 4;
  LoadedModel model = test::tiny_model(1);
  const std::string folder = test::test_folder() + "/" + name;
  run_stage(config, model, test::tiny_tokenizer_path(), folder);
  return test::read_lines(folder + "/metrics.jsonl").at(0)["loading_wait"].get<double>();
}

TEST(Stage, SaysHowLongItWaitedForItsPacks) {
  SourceConfig texts = test::tiny_stage("").data.sources[0];
  texts.scenes.tasks = {{"text", 1.0}};
  const std::string folder = test::test_folder() + "/large";
  make_folders(folder);
  Image picture(3000, 2000);
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) picture.rgb[i] = static_cast<uint8_t>(i * 37 + i / 97);
  write_file_atomic(folder + "/large.jpg", encode_jpeg(picture, 90));
  write_file_atomic(folder + "/data.jsonl",
                    "{\"image\": \"large.jpg\", \"conversations\": [{\"from\": \"human\", \"value\": \"<image>\\nWhat?\"}, "
                    "{\"from\": \"gpt\", \"value\": \"a dog\"}]}\n");
  SourceConfig pictures;
  pictures.kind = "conversations";
  pictures.path = folder + "/data.jsonl";
  const double of_texts = loading_wait("loading-texts", texts), of_pictures = loading_wait("loading-pictures", pictures);
  EXPECT_GT(of_texts, 0);
  EXPECT_LT(of_texts, of_pictures);
  EXPECT_GT(of_pictures, 0.5);
  EXPECT_LT(of_pictures, 1);
}

}  // namespace
}  // namespace pocketvlm
