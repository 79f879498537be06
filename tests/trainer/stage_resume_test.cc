#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <limits>

#include "base/files.h"
#include "tiny_stage.h"
#include "trainer/same_config.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

StageConfig interrupted_stage(const std::string& objective) {
  StageConfig config = objective == "contrastive" ? test::tiny_contrastive_stage(objective)
                                                  : test::tiny_stage(objective);
  config.steps = 14;
  config.accumulation = 2;
  config.checkpoint_every = 5;
  config.log_every = 3;
  config.data.workers = 2;
  return config;
}

void run_until_killed(const StageConfig& config, const std::string& folder, int64_t kill_after) {
  LoadedModel model = test::tiny_model(1);
  run_stage(config, model, test::tiny_tokenizer_path(), folder, [&](int64_t step) {
    if (step == kill_after) std::raise(SIGKILL);
  });
}

/// Metrics without what the clock decides.
std::vector<Json> decided_metrics(const std::string& folder) {
  std::vector<Json> lines = test::read_lines(folder + "/metrics.jsonl");
  for (Json& line : lines) {
    for (const char* key : {"tokens_per_s", "images_per_s", "mfu", "loading_wait", "seconds"}) line.erase(key);
  }
  return lines;
}

class Interruption : public testing::TestWithParam<const char*> {};

TEST_P(Interruption, ByKillEndsWithTheSameBits) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const StageConfig config = interrupted_stage(GetParam());
  const std::string killed = test::test_folder() + "/killed-" + GetParam();
  // Before the first state, between states after a line of metrics that no state knows, right after
  // the last state.
  EXPECT_EXIT(run_until_killed(config, killed, 3), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(run_until_killed(config, killed, 9), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(run_until_killed(config, killed, 14), testing::KilledBySignal(SIGKILL), "");
  EXPECT_FALSE(std::filesystem::exists(killed + "/result.json"));
  LoadedModel resumed = test::tiny_model(1);
  const StageResult from_pieces = run_stage(config, resumed, test::tiny_tokenizer_path(), killed);

  const std::string whole = test::test_folder() + "/whole-" + GetParam();
  LoadedModel model = test::tiny_model(1);
  const StageResult at_once = run_stage(config, model, test::tiny_tokenizer_path(), whole);
  EXPECT_EQ(read_file(killed + "/checkpoint/model.safetensors"),
            read_file(whole + "/checkpoint/model.safetensors"));
  EXPECT_EQ(decided_metrics(killed), decided_metrics(whole));
  EXPECT_EQ(from_pieces.first_loss, at_once.first_loss);
  EXPECT_EQ(from_pieces.final_loss, at_once.final_loss);
  EXPECT_EQ(from_pieces.samples, at_once.samples);
  EXPECT_EQ(from_pieces.skipped, at_once.skipped);

  // The comparison can fail: one step fewer gives other bits.
  StageConfig shorter = config;
  shorter.steps = 13;
  LoadedModel other = test::tiny_model(1);
  run_stage(shorter, other, test::tiny_tokenizer_path(), whole + "-shorter");
  EXPECT_NE(read_file(whole + "-shorter/checkpoint/model.safetensors"),
            read_file(whole + "/checkpoint/model.safetensors"));
}

TEST(WaitingForStates, EndsWithTheSameBitsAsSavingBesideTheSteps) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  StageConfig config = interrupted_stage("language");
  config.checkpoint_in_background = false;
  const std::string killed = test::test_folder() + "/killed-waiting", whole = test::test_folder() + "/whole-beside";
  EXPECT_EXIT(run_until_killed(config, killed, 9), testing::KilledBySignal(SIGKILL), "");
  // Nothing is left to chance here: the state of step 5 was waited for.
  EXPECT_TRUE(std::filesystem::exists(killed + "/state/step-000000005/complete.json"));
  config.checkpoint_in_background = true;  // changes no number, so the stage may go on with it
  LoadedModel resumed = test::tiny_model(1), model = test::tiny_model(1);
  run_stage(config, resumed, test::tiny_tokenizer_path(), killed);
  run_stage(config, model, test::tiny_tokenizer_path(), whole);
  EXPECT_EQ(read_file(killed + "/checkpoint/model.safetensors"), read_file(whole + "/checkpoint/model.safetensors"));
  EXPECT_EQ(decided_metrics(killed), decided_metrics(whole));
}

INSTANTIATE_TEST_SUITE_P(Of,
                         Interruption,
                         testing::Values("language", "contrastive"),
                         [](const auto& info) { return std::string(info.param); });

/// A stage that stopped after its first state, in this process.
void stop_after(const StageConfig& config, const std::string& folder, int64_t step) {
  LoadedModel model = test::tiny_model(1);
  const std::string error = test::error_of([&] {
    run_stage(config, model, test::tiny_tokenizer_path(), folder, [&](int64_t done) {
      if (done == step) fail("stopped");
    });
  });
  ASSERT_EQ(error, "stopped");
}

TEST(Resume, RefusesAnotherConfigurationByName) {
  StageConfig config = interrupted_stage("language");
  const std::string folder = test::test_folder() + "/other-config";
  stop_after(config, folder, 6);
  config.data.batch_tokens = 300;
  LoadedModel model = test::tiny_model(1);
  const std::string error =
      test::error_of([&] { run_stage(config, model, test::tiny_tokenizer_path(), folder); });
  EXPECT_NE(error.find("data/batch_tokens"), std::string::npos) << error;
}

std::string error_when_run(const StageConfig& config, const std::string& folder, bool changed) {
  LoadedModel model = test::tiny_model(1);
  return test::error_of([&] { run_stage(config, model, test::tiny_tokenizer_path(), folder, {}, nullptr, changed); });
}

TEST(Resume, LetsLoggingAndTheGuardBeOthersWithTheSameBits) {
  StageConfig config = interrupted_stage("language");
  const std::string folder = test::test_folder() + "/other-logging", whole = folder + "-whole";
  EXPECT_EQ(error_when_run(config, whole, false), "");
  stop_after(config, folder, 6);
  config.log_every = 1;
  config.log_samples = true;
  config.guard.max_bad_steps = 3;
  EXPECT_EQ(error_when_run(config, folder, false), "");
  EXPECT_EQ(read_file(folder + "/checkpoint/model.safetensors"), read_file(whole + "/checkpoint/model.safetensors"));
  // From the state of step 5 on.
  const std::vector<Json> samples = test::read_lines(folder + "/samples.jsonl");
  ASSERT_EQ(samples.size(), 9U);
  EXPECT_EQ(samples.front()["step"], 6);
  EXPECT_EQ(samples.back()["packs"].size(), 2U);
  EXPECT_FALSE(std::filesystem::exists(folder + "/changes.jsonl"));
  EXPECT_EQ(read_json(folder + "/config.json")["log_every"], 1);
}

TEST(Resume, CutsTheLogOfSamplesBackToItsState) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  StageConfig config = interrupted_stage("language");
  config.log_samples = true;
  const std::string folder = test::test_folder() + "/samples-cut", whole = test::test_folder() + "/samples-whole";
  EXPECT_EXIT(run_until_killed(config, folder, 3), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(run_until_killed(config, folder, 9), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EQ(test::read_lines(folder + "/samples.jsonl").size(), 9U);
  EXPECT_EQ(error_when_run(config, folder, false), "");
  EXPECT_EQ(error_when_run(config, whole, false), "");
  EXPECT_EQ(read_file(folder + "/samples.jsonl"), read_file(whole + "/samples.jsonl"));
  EXPECT_EQ(test::read_lines(folder + "/samples.jsonl").size(), 14U);
}

TEST(Resume, GoesOnWithAnotherLearningRateWhenToldTo) {
  StageConfig config = interrupted_stage("language");
  config.log_every = 1;
  const std::string folder = test::test_folder() + "/changed";
  stop_after(config, folder, 6);
  config.optimizer.learning_rate = 1e-3;
  config.steps = 16;
  const std::string refused = error_when_run(config, folder, false);
  EXPECT_NE(refused.find("was begun with other settings (optimizer/learning_rate: 0.003 -> 0.001, steps: 14 -> 16); to go on with "
                         "these from the last state, add --changed"),
            std::string::npos)
      << refused;
  EXPECT_EQ(read_json(folder + "/config.json")["steps"], 14);

  StageConfig other = config;
  other.optimizer.orthogonalized = {"language.layers.*"};
  EXPECT_NE(error_when_run(other, folder, true).find("holds results of another configuration (optimizer/learning_rate: 0.003 -> 0.001"),
            std::string::npos);
  other = config;
  other.data.batch_tokens = 300;
  EXPECT_NE(error_when_run(other, folder, true).find("data/batch_tokens: 256 -> 300"), std::string::npos);
  other = config;
  other.steps = 4;
  EXPECT_NE(error_when_run(other, folder, true).find("5 steps are done already; set steps to no less than that"), std::string::npos);

  EXPECT_EQ(error_when_run(config, folder, true), "");
  const std::vector<Json> changes = test::read_lines(folder + "/changes.jsonl");
  ASSERT_EQ(changes.size(), 2U);
  EXPECT_EQ(changes[0], (Json{{"step", 5}, {"field", "optimizer/learning_rate"}, {"before", 0.003}, {"after", 0.001}}));
  EXPECT_EQ(changes[1], (Json{{"step", 5}, {"field", "steps"}, {"before", 14}, {"after", 16}}));
  EXPECT_EQ(read_json(folder + "/config.json")["steps"], 16);
  const std::vector<Json> lines = test::read_lines(folder + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 16U);
  EXPECT_GT(lines[4]["learning_rate"].get<double>(), 1e-3);
  EXPECT_LT(lines[5]["learning_rate"].get<double>(), 1e-3);

  // It is done: nothing may be another now.
  config.steps = 20;
  const std::string finished = error_when_run(config, folder, true);
  EXPECT_NE(finished.find("holds results of another configuration (steps: 16 -> 20)"), std::string::npos) << finished;
}

TEST(Resume, ListsAChangeWhereItHoldsAfterFallingBack) {
  const std::string folder = test::test_folder() + "/noted";
  make_folders(folder);
  const StageConfig config = interrupted_stage("language");
  note_changes(config, folder, 5, {{"steps", 14, 16}});
  note_changes(config, folder, 10, {{"steps", 16, 18}});
  note_changes(config, folder, 8, {});
  const std::vector<Json> changes = test::read_lines(folder + "/changes.jsonl");
  ASSERT_EQ(changes.size(), 2U);
  EXPECT_EQ(changes[0]["step"], 5);
  EXPECT_EQ(changes[1]["step"], 8);
}

/// The way out after a stop that the guard asked for, whose message names these two settings.
TEST(Resume, GoesOnAfterAStopOfTheGuardWithAnotherGuard) {
  StageConfig config = interrupted_stage("language");
  config.name = "stopped";
  const std::string folder = test::test_folder() + "/stopped-by-guard";
  LoadedModel model = test::tiny_model(1);
  torch::Tensor weight = model.model->named_parameters()["language.norm.weight"];
  const std::string error = test::error_of([&] {
    run_stage(config, model, test::tiny_tokenizer_path(), folder, [&](int64_t step) {
      const torch::NoGradGuard no_grad;
      if (step == 6) weight.fill_(std::numeric_limits<float>::quiet_NaN());
    });
  });
  EXPECT_NE(error.find("--changed"), std::string::npos) << error;
  config.guard.max_bad_steps = 2;
  EXPECT_EQ(error_when_run(config, folder, false), "");
}

/// Makes the loss of step 24 a high one, and that step's weights what they were.
StageResult run_with_a_loss_spike(const StageConfig& config, const std::string& folder, int64_t stop = 0) {
  LoadedModel model = test::tiny_model(1);
  torch::Tensor weight = model.model->named_parameters()["language.norm.weight"], good;
  return run_stage(config, model, test::tiny_tokenizer_path(), folder, [&](int64_t step) {
    const torch::NoGradGuard no_grad;
    if (step == stop) throw Error("stopped");
    if (step == 23) good = weight.detach().clone();
    if (step == 23) weight.mul_(100);
    if (step == 24) weight.copy_(good);
  });
}

TEST(Resume, KnowsAStepsLossFromThoseBeforeTheInterruption) {
  StageConfig config = interrupted_stage("language");
  config.steps = 26;
  config.log_every = 1;
  config.guard.max_bad_steps = 1;
  config.guard.loss_spike_factor = 4;
  const std::string folder = test::test_folder() + "/loss-spike", whole = folder + "-whole", unguarded = folder + "-unguarded";
  EXPECT_EQ(test::error_of([&] { run_with_a_loss_spike(config, folder, 22); }), "stopped");
  const StageResult result = run_with_a_loss_spike(config, folder), expected = run_with_a_loss_spike(config, whole);
  EXPECT_EQ(expected.loss_spikes, 1);
  EXPECT_EQ(expected.bad_steps, 1);
  EXPECT_EQ(result.loss_spikes, 1);
  EXPECT_EQ(read_file(folder + "/checkpoint/model.safetensors"), read_file(whole + "/checkpoint/model.safetensors"));
  const Json line = test::read_lines(folder + "/metrics.jsonl").at(23);
  EXPECT_EQ(line["step"], 24);
  EXPECT_NE(line.value("skipped", "").find("times its recent median"), std::string::npos) << line;

  config.guard.loss_spike_factor = 0;  // as it is when nothing is set
  EXPECT_EQ(run_with_a_loss_spike(config, unguarded).loss_spikes, 0);
  EXPECT_NE(read_file(unguarded + "/checkpoint/model.safetensors"), read_file(whole + "/checkpoint/model.safetensors"));
}

TEST(Resume, RefusesOtherFrozenWeights) {
  StageConfig config = interrupted_stage("language");
  config.trainable = {"projector.*"};
  const std::string folder = test::test_folder() + "/other-weights";
  stop_after(config, folder, 6);
  LoadedModel model = test::tiny_model(2);
  const std::string error =
      test::error_of([&] { run_stage(config, model, test::tiny_tokenizer_path(), folder); });
  EXPECT_NE(error.find("other frozen weights"), std::string::npos) << error;
}

TEST(Resume, RefusesADamagedState) {
  const StageConfig config = interrupted_stage("language");
  const std::string folder = test::test_folder() + "/damaged-state";
  stop_after(config, folder, 6);
  const std::string file = folder + "/state/step-000000005/rank-00000-of-00001.safetensors";
  write_file_atomic(file, read_file(file).substr(0, 1000));
  LoadedModel model = test::tiny_model(1);
  const std::string error =
      test::error_of([&] { run_stage(config, model, test::tiny_tokenizer_path(), folder); });
  EXPECT_NE(error.find(file), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
