#include <gtest/gtest.h>

#include <limits>

#include "base/files.h"
#include "base/random.h"
#include "data/packed_loader.h"
#include "data/preprocess/image.h"
#include "tiny_stage.h"
#include "trainer/stage.h"
#include "trainer/stage_plan.h"

/// What a stage's metrics say, against its packs read a second time. Time drops out of quotients: MFU and the rates of one line are taken
/// over the same seconds.
namespace pocketvlm {
namespace {

constexpr double kPeakTflops = 0.001;

StageConfig figures_stage(const std::string& name) {
  StageConfig config = test::tiny_stage(name);
  config.steps = config.log_every = 4;  // one line
  config.peak_tflops = kPeakTflops;
  return config;
}

Json metrics_of(const StageConfig& config, LoadedModel& model, const std::function<void(int64_t)>& after_step = {}) {
  const std::string folder = test::test_folder() + "/" + config.name;
  run_stage(config, model, test::tiny_tokenizer_path(), folder, after_step);
  return test::read_lines(folder + "/metrics.jsonl").back();
}

/// Packs of the steps from 1 that are not `left_out`.
std::vector<PackedBatch> packs_of(const StageConfig& config, const LoadedModel& model, int64_t left_out = 0) {
  LoaderConfig data = config.data;
  data.seed = mix_keys({config.seed, config.data.seed});
  const PromptEncoder encoder(*model.tokenizer, stage_prompt(config.input, model.config.prompt), stage_image(config.input, model.config.image));
  PackedLoader loader(data, encoder);
  std::vector<PackedBatch> packs;
  for (int64_t step = 1; step <= config.steps; ++step) {
    PackedBatch pack = loader.next();
    if (step != left_out) packs.push_back(std::move(pack));
  }
  return packs;
}

double operations_a_token(const StageConfig& config, const LoadedModel& model, const std::vector<PackedBatch>& packs) {
  PackShape shape;
  for (const PackedBatch& pack : packs) shape.add(pack.segment_lengths, pack.num_targets(), pack.grids);
  return training_operations(model.config, learning_components(config), shape) / static_cast<double>(shape.tokens);
}

double logged_operations_a_token(const Json& line) {
  return line["mfu"].get<double>() * kPeakTflops * 1e12 / line["tokens_per_s"].get<double>();
}

TEST(StageFigures, CountTheBackwardOfLoraWhereNothingElseLearns) {
  StageConfig config = figures_stage("figures-lora");
  config.trainable = {};
  config.lora.emplace();
  config.lora->rank = 2;
  config.lora->targets = {"language.layers.*.self_attn.*_proj"};
  LoadedModel model = test::tiny_model(1);
  const Json line = metrics_of(config, model);
  const std::vector<PackedBatch> packs = packs_of(config, model);
  const double expected = operations_a_token(config, model, packs);
  EXPECT_NEAR(logged_operations_a_token(line), expected, 1e-6 * expected);
  config.lora.reset();  // forward alone
  EXPECT_GT(expected, 1.2 * operations_a_token(config, model, packs));
}

TEST(StageFigures, KeepTheWorkOfGoodStepsBesideARefusedOne) {
  StageConfig config = figures_stage("figures-refused");
  config.guard.max_bad_steps = 1;
  LoadedModel model = test::tiny_model(1);
  torch::Tensor good;
  const Json line = metrics_of(config, model, [&](int64_t step) {
    const torch::NoGradGuard no_grad;
    torch::Tensor weight = model.model->named_parameters()["language.norm.weight"];
    if (step == 2) {  // so that step 3 is refused
      good = weight.detach().clone();
      weight.fill_(std::numeric_limits<float>::quiet_NaN());
    }
    if (step == 3) weight.copy_(good);
  });
  const double expected = operations_a_token(config, model, packs_of(config, model, /*left_out=*/3));
  EXPECT_NEAR(logged_operations_a_token(line), expected, 1e-6 * expected);
}

TEST(StageFigures, CountPicturesAndNotSamples) {
  StageConfig config = figures_stage("figures-pictures");
  const std::string folder = test::test_folder() + "/two-pictures";
  make_folders(folder);
  Image picture(56, 56);
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) picture.rgb[i] = static_cast<uint8_t>(i * 37 + i / 97);
  write_file_atomic(folder + "/a.png", encode_png(picture));
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    Json record = {{"id", std::to_string(i)}, {"image", i % 2 == 0 ? Json::array({"a.png", "a.png", "a.png"}) : Json("a.png")}};
    record["conversations"].push_back({{"from", "human"}, {"value", i % 2 == 0 ? "<image><image><image>\nwhat?" : "<image>\nwhat?"}});
    record["conversations"].push_back({{"from", "gpt"}, {"value", "a dog"}});
    lines += record.dump() + "\n";
  }
  write_file_atomic(folder + "/data.jsonl", lines);
  SourceConfig source;
  source.kind = "conversations";
  source.path = folder + "/data.jsonl";
  config.data.sources = {source};
  LoadedModel model = test::tiny_model(1);
  const Json line = metrics_of(config, model);
  int64_t pictures = 0, samples = 0, tokens = 0;
  for (const PackedBatch& pack : packs_of(config, model)) {
    for (const std::string& id : pack.sample_ids) pictures += std::stoi(id) % 2 == 0 ? 3 : 1;
    samples += static_cast<int64_t>(pack.sample_ids.size());
    tokens += pack.num_tokens();
  }
  ASSERT_GT(pictures, samples);
  const double expected = static_cast<double>(pictures) / static_cast<double>(tokens);
  EXPECT_NEAR(line["images_per_s"].get<double>() / line["tokens_per_s"].get<double>(), expected, 1e-9);
}

}  // namespace
}  // namespace pocketvlm
