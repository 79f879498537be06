#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "tests/apps/program.h"

namespace pocketvlm {
namespace {

constexpr const char* kRecipe = SOURCE_ROOT "/configs/recipes/quickstart.json";

struct Mistake {
  const char* assignment;  // --set that makes the mistake
  const char* path;        // the place that the answer names
  const char* cure;        // what it suggests or says
};

class ConfigMistakes : public testing::TestWithParam<Mistake> {};

TEST_P(ConfigMistakes, AreAnsweredAtOnceWithPathAndCure) {
  const Mistake& mistake = GetParam();
  const std::string command = program("pocketvlm") + " run " + kRecipe + " --set '" + mistake.assignment + "'";
  Outcome outcome = run_program(command);
  // The bound is on the program, not on a busy machine: the best of ten.
  for (int i = 0; i < 9 && outcome.seconds >= 0.1; ++i) outcome.seconds = std::min(outcome.seconds, run_program(command).seconds);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find(std::string(kRecipe) + mistake.path), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(mistake.cure), std::string::npos) << outcome.err;
  EXPECT_LT(outcome.seconds, 0.1);
}

INSTANTIATE_TEST_SUITE_P(
    Recipe,
    ConfigMistakes,
    testing::Values(
        Mistake{"sed=1", ": unknown key \"sed\"", "did you mean \"seed\"?"},
        Mistake{"seed=-1", ".seed", "-1 is out of range"},
        Mistake{"seed=1.5", ".seed", "expected integer"},
        Mistake{"name=", ".name", "not empty"},
        Mistake{"name=a/b", ".name", "folder name"},
        Mistake{"stages=[]", ".stages", "at least one stage"},
        Mistake{"stages={}", ".stages", "expected list of object"},
        Mistake{"stages.0.stepz=4", ".stages[0]", "did you mean \"steps\"?"},
        Mistake{"stages.0.steps=0", ".stages[0].steps", "must be 1"},
        Mistake{"stages.1.name=text", ".stages[1].name", "name of an earlier stage"},
        Mistake{"stages.1.objective=contrastiv", ".stages[1].objective", "did you mean \"contrastive\"?"},
        Mistake{"stages.2.init_from=txt", ".stages[2].init_from", "did you mean \"text\"?"},
        Mistake{"stages.0.trainable=[]", ".stages[0]", "trainable"},
        Mistake{"stages.0.optimizer.learning_rat=1", ".stages[0].optimizer", "did you mean \"learning_rate\"?"},
        Mistake{"stages.0.optimizer.learning_rate=100", ".stages[0].optimizer.learning_rate", "must be 0 to 10"},
        Mistake{"stages.0.optimizer.schedule=cosin", ".stages[0].optimizer.schedule", "did you mean \"cosine\"?"},
        Mistake{"stages.0.data.batch_token=4", ".stages[0].data", "did you mean \"batch_tokens\"?"},
        Mistake{"stages.0.data.sources=[]", ".stages[0].data", "source"},
        Mistake{"stages.0.data.sources.0.kind=scene", ".stages[0].data.sources[0].kind", "did you mean \"scenes\"?"},
        Mistake{"stages.0.data.sources.0.weight=-1", ".stages[0].data.sources[0].weight", "at least 0"},
        Mistake{"stages.0.data.sources.0.scenes.max_objects=99", ".stages[0].data.sources[0].scenes.max_objects", "1 to 16"},
        Mistake{"stages.0.compute_dtype=fp16", ".stages[0].compute_dtype", "bf16, f32"},
        Mistake{"stages.0.input.image_mode=slice", ".stages[0].input.image_mode", "did you mean \"slices\"?"},
        Mistake{"alignment.policy=sft3", ".alignment.policy", "did you mean \"sft"},
        Mistake{"alignment.rollout.temperature=hot", ".alignment.rollout.temperature", "expected number"},
        Mistake{"exports.types=[\"q4_1\"]", ".exports.types[0]", "did you mean \"q4_0\"?"},
        Mistake{"evaluation.after=[\"sft9\"]", ".evaluation.after", "did you mean \"sft"}));

TEST(Changed, BelongsToWhatIsContinued) {
  for (const char* command : {" train stage.json", " run recipe.json"}) {
    const Outcome outcome = run_program(program("pocketvlm") + command + " --changed");
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE((outcome.out + outcome.err).find("--changed requires --resume"), std::string::npos) << outcome.out << outcome.err;
  }
}

TEST(Help, AnswersWithin50Milliseconds) {
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const Outcome outcome = run_program(program("pocketvlm") + " --help");
    ASSERT_EQ(outcome.status, 0);
    ASSERT_NE(outcome.out.find("rlaif"), std::string::npos);
    best = std::min(best, outcome.seconds);
  }
  EXPECT_LT(best, 0.05);
}

TEST(ShippedConfigs, AllOfThemParse) {
  int count = 0;
  for (const char* folder : {"alignment", "cluster", "models", "recipes"}) {
    for (const auto& entry : std::filesystem::directory_iterator(std::string(SOURCE_ROOT) + "/configs/" + folder)) {
      const Outcome outcome = run_program("cd " SOURCE_ROOT " && " + program("pocketvlm") + " explain " + entry.path().string());
      EXPECT_EQ(outcome.status, 0) << entry.path() << outcome.err;
      ++count;
    }
  }
  EXPECT_GE(count, 28);
}

/// Stages of the papers' sizes run nowhere in these tests; their plans do.
TEST(ShippedConfigs, StagesOfClustersCanBePlanned) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SOURCE_ROOT "/configs/cluster")) {
    const std::string name = entry.path().filename().string();
    const std::string model = name.starts_with("minicpmv") ? "minicpmv-2.5" : name.substr(0, name.rfind('-'));
    const Outcome outcome = run_program(fmt::format("cd {} && {} train {} --model {} --simulate-ranks 8,64,512 --json",
                                                    SOURCE_ROOT, program("pocketvlm"), entry.path().string(), model));
    ASSERT_EQ(outcome.status, 0) << name << outcome.err;
    const Json plans = parse_json(outcome.out, name)["plans"];
    ASSERT_EQ(plans.size(), 3U) << name;
    double ranks = 8, days = 1e9;
    for (const Json& plan : plans) {
      EXPECT_EQ(plan["ranks"].get<double>(), ranks) << name;
      for (const char* key : {"memory_bytes", "weights_bytes", "gradients_bytes", "moments_bytes", "activations_bytes", "host_bytes", "first_host_bytes", "traffic_bytes_per_step",
                              "operations_per_step", "samples_per_step", "steps", "days"}) {
        EXPECT_GT(plan[key].get<double>(), 0) << name << " " << key;
      }
      EXPECT_GE(plan["gathered_bytes"].get<double>(), 0) << name;
      EXPECT_GE(plan["averages_bytes"].get<double>(), 0) << name;
      EXPECT_LE(plan["memory_bytes"].get<double>(), 80e9) << name << ": more than a GPU has";
      EXPECT_LE(plan["days"].get<double>(), days) << name;
      ranks *= 8;
      days = plan["days"].get<double>();
    }
    ++count;
  }
  EXPECT_EQ(count, 13);
}

}  // namespace
}  // namespace pocketvlm
