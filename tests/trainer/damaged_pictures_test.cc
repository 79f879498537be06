/// Pictures whose damage shows only when they are decoded, after their samples were packed.
#include <gtest/gtest.h>

#include <set>

#include "base/files.h"
#include "model/batch.h"
#include "tiny_stage.h"
#include "trainer/blank_picture.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

StageConfig damaged_stage(const std::string& name, bool all = false) {
  StageConfig config = test::tiny_stage(name);
  config.data.sources[0] = test::third_damaged_pictures(test::test_folder() + "/pictures-of-" + name, all);
  config.log_every = 1;
  return config;
}

/// One sample a pack: a damaged one leaves nothing of it.
StageConfig one_sample_a_step(const std::string& name, bool all = false) {
  StageConfig config = damaged_stage(name, all);
  config.data.batch_tokens = config.data.max_tokens = 56;
  config.steps = 12;
  return config;
}

std::string folder(const StageConfig& config) { return test::test_folder() + "/" + config.name; }

StageResult run(const StageConfig& config, LoadedModel& model, const std::function<void(int64_t)>& after_step = {}) {
  return run_stage(config, model, test::tiny_tokenizer_path(), folder(config), after_step);
}

int64_t steps_passed_over(const StageConfig& config) {
  int64_t count = 0;
  for (const Json& line : test::read_lines(folder(config) + "/metrics.jsonl")) {
    if (!line.contains("skipped")) continue;
    EXPECT_EQ(line["skipped"], "no picture of it could be decoded");
    ++count;
  }
  return count;
}

TEST(DamagedPictures, AreCountedAndListed) {
  const StageConfig config = damaged_stage("late-damage");
  LoadedModel model = test::tiny_model(1);
  const StageResult result = run(config, model);
  std::set<std::string> places;
  for (const Json& line : test::read_lines(folder(config) + "/skipped.jsonl")) {
    EXPECT_EQ(line["file"], config.data.sources[0].path);
    EXPECT_TRUE(line["reason"].get<std::string>().starts_with("damaged image: ")) << line;
    EXPECT_TRUE(places.insert(line["place"].get<std::string>()).second) << line;
  }
  EXPECT_GT(result.skipped, 2);
  EXPECT_EQ(static_cast<int64_t>(places.size()), std::min<int64_t>(result.skipped, 20));
  EXPECT_GT(result.samples, result.skipped);
  EXPECT_EQ(steps_passed_over(config), 0);
}

TEST(DamagedPictures, AStepThatLosesAllUpdatesNothingAndTheStageGoesOn) {
  const StageConfig config = one_sample_a_step("nothing-left");
  LoadedModel model = test::tiny_model(1);
  std::vector<std::map<std::string, torch::Tensor>> weights = {test::copy_weights(model)};
  const StageResult result = run(config, model, [&](int64_t) { weights.push_back(test::copy_weights(model)); });
  const std::vector<Json> lines = test::read_lines(folder(config) + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 12U);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    bool same = true;
    for (const auto& [name, weight] : weights[i + 1]) same = same && test::same_bits(weight, weights[i].at(name));
    EXPECT_EQ(same, lines[i].contains("skipped")) << "step " << i + 1;
  }
  const int64_t passed_over = steps_passed_over(config);
  EXPECT_GT(passed_over, 0);
  EXPECT_LT(passed_over, 12);
  EXPECT_EQ(result.skipped, passed_over);
  EXPECT_EQ(result.samples, 12 - passed_over);
  EXPECT_EQ(result.bad_steps, 0);
}

TEST(DamagedPictures, AreCountedOnceWhenTheStageIsInterrupted) {
  StageConfig config = one_sample_a_step("at-once");
  config.checkpoint_every = 3;
  LoadedModel model = test::tiny_model(1);
  const StageResult at_once = run(config, model);
  EXPECT_GT(at_once.skipped, 1);

  struct Interrupted {};
  const std::string pieces = test::test_folder() + "/in-pieces";
  for (const int64_t stop : {4, 8}) {
    LoadedModel begun = test::tiny_model(1);
    const auto interrupt = [&](int64_t step) {
      if (step == stop) throw Interrupted();
    };
    EXPECT_THROW(run_stage(config, begun, test::tiny_tokenizer_path(), pieces, interrupt), Interrupted);
  }
  LoadedModel resumed = test::tiny_model(1);
  const StageResult from_pieces = run_stage(config, resumed, test::tiny_tokenizer_path(), pieces);
  EXPECT_EQ(from_pieces.skipped, at_once.skipped);
  EXPECT_EQ(from_pieces.samples, at_once.samples);
  for (const char* file : {"/skipped.jsonl", "/checkpoint/model.safetensors"}) {
    EXPECT_EQ(read_file(pieces + file), read_file(folder(config) + file)) << file;
  }
}

TEST(DamagedPictures, AStageThatCouldDecodeNothingFails) {
  const StageConfig config = one_sample_a_step("all-damaged", true);
  LoadedModel model = test::tiny_model(1);
  const std::string error = test::error_of([&] { run(config, model); });
  EXPECT_NE(error.find("stage all-damaged: no picture of any step could be decoded; 12 samples were left out, the first one: "),
            std::string::npos)
      << error;
}

TEST(DamagedPictures, TheContrastiveObjectiveGoesOnToo) {
  StageConfig config = test::tiny_contrastive_stage("contrastive-damage");
  config.data.sources[0] = one_sample_a_step(config.name).data.sources[0];
  config.data.batch_tokens = config.data.max_tokens = 24;
  config.steps = 12;
  config.log_every = 1;
  LoadedModel model = test::tiny_model(1);
  const StageResult result = run(config, model);
  EXPECT_GT(steps_passed_over(config), 0);
  EXPECT_LT(steps_passed_over(config), 12);
  EXPECT_GE(result.skipped, steps_passed_over(config));
}

TEST(BlankText, IsOneTokenWithoutATarget) {
  const PackedBatch blank = with_blank_text({});
  EXPECT_EQ(blank.num_tokens(), 1);
  EXPECT_EQ(blank.num_targets(), 0);
  EXPECT_EQ(blank.segment_lengths, std::vector<int64_t>{1});
  LoadedModel model = test::tiny_model(1);
  const torch::Tensor loss = model.model->loss_sum(to_batch(blank));
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
  for (const auto& item : model.model->named_parameters()) {
    const torch::Tensor& gradient = item.value().grad();
    if (!gradient.defined()) continue;
    EXPECT_EQ(gradient.abs().max().item<double>(), 0.0) << item.key();
  }
}

}  // namespace
}  // namespace pocketvlm
