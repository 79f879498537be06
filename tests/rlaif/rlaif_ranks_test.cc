#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "rank_jobs.h"
#include "tiny_round.h"

/// Starts jobs of several processes (rlaif_rank_program) with mpirun and compares what they leave behind.
namespace pocketvlm {
namespace {

using test::folder_of;
using test::Outcome;
using test::relative;

Outcome run_ranks(int ranks, const std::string& name, Json job) {
  job["policy"] = test::tiny_policy_folder();
  job["judge"] = test::tiny_judge_folder();
  job["folder"] = folder_of(name);
  return test::run_program("rlaif_rank_program", ranks, job);
}

void succeed(int ranks, const std::string& name, const Json& job = Json::object()) {
  const Outcome outcome = run_ranks(ranks, name, job);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
}

// Adam would turn the rounding of near-zero gradients into whole steps.
Json with_large_eps(Json set = Json::object()) {
  set["preference"]["optimizer"]["eps"] = 1e-4;
  return {{"set", set}};
}

void expect_same_files(const std::string& a, const std::string& b) {
  for (const char* file : {"rollouts.jsonl", "claims.jsonl", "verdicts.jsonl", "scores.jsonl", "pairs.jsonl", "reference.jsonl"})
    EXPECT_EQ(read_file(folder_of(a) + "/" + file), read_file(folder_of(b) + "/" + file)) << file;
}

void expect_same_weights(const std::string& a, const std::string& b) {
  const auto weights = test::copy_weights(load_model(folder_of(a) + "/checkpoint"));
  double moved = 0;
  const auto start = test::copy_weights(load_model(test::tiny_policy_folder()));
  for (const auto& [name, weight] : test::copy_weights(load_model(folder_of(b) + "/checkpoint"))) {
    EXPECT_LT(relative(weights.at(name), weight), 1e-6) << name;
    moved = std::max(moved, relative(start.at(name), weight));
  }
  EXPECT_GT(moved, 1e-3) << "training changed nothing";
}

void expect_same_steps(const std::string& a, const std::string& b) {
  const auto rows = test::read_lines(folder_of(a) + "/metrics.jsonl"), others = test::read_lines(folder_of(b) + "/metrics.jsonl");
  ASSERT_EQ(rows.size(), others.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (const auto& [key, value] : rows[i].items()) {
      if (key == "seconds" || key == "tokens_per_s") continue;
      const double wanted = others[i].at(key).get<double>();
      EXPECT_NEAR(value.get<double>(), wanted, 2e-5 * std::max(1.0, std::abs(wanted))) << key << " of step " << i + 1;
    }
  }
}

const std::string& one_rank() {
  static const std::string name = [] {
    succeed(1, "one", with_large_eps());
    return std::string("one");
  }();
  return name;
}

class EverySharding : public testing::TestWithParam<const char*> {};

TEST_P(EverySharding, GivesTheRoundOfOneRank) {
  Json job = with_large_eps({{"distributed", {{"sharding", GetParam()}}}});
  const std::string name = std::string("two-") + GetParam();
  succeed(2, name, job);
  expect_same_files(one_rank(), name);
  expect_same_steps(one_rank(), name);
  expect_same_weights(one_rank(), name);
  // Figures, too; not what depends on the clock.
  Json one = read_json(folder_of(one_rank()) + "/result.json"), two = read_json(folder_of(name) + "/result.json");
  for (const char* key : {"rollout", "claims", "judge", "pairs"}) EXPECT_EQ(one.at(key), two.at(key)) << key;
  EXPECT_EQ(one.at("preference").at("pairs"), two.at("preference").at("pairs"));
}

INSTANTIATE_TEST_SUITE_P(Modes,
                         EverySharding,
                         testing::Values("replicated", "optimizer", "full"),
                         [](const auto& info) { return std::string(info.param); });

// More ranks than groups of prompts, and steps with fewer pairs than ranks: some ranks are idle.
TEST(Ranks, MayBeMoreThanThereIsToDo) {
  for (const char* mode : {"replicated", "full"}) {
    const Json set = {{"distributed", {{"sharding", mode}}},
                      {"preference", {{"loss", "kto"}, {"batch_pairs", 2}, {"pack_tokens", 1}, {"epochs", 1}}}};
    const std::string one = std::string("kto-one-") + mode, three = std::string("kto-three-") + mode;
    succeed(1, one, with_large_eps(set));
    succeed(3, three, with_large_eps(set));
    expect_same_files(one, three);
    EXPECT_EQ(read_file(folder_of(one) + "/reference-kl.jsonl"), read_file(folder_of(three) + "/reference-kl.jsonl"));
    expect_same_steps(one, three);
    expect_same_weights(one, three);
  }
}

TEST(Ranks, KilledInEveryStageGoOnWithAnyNumber) {
  int ranks = 2;
  const std::string name = "killed";
  Json job = with_large_eps();
  for (const auto& [stage, done] : std::vector<std::pair<std::string, int>>{
           {"rollout", 6}, {"split", 3}, {"judge", 3}, {"reference", 4}, {"preference", 2}, {"preference", 3}}) {
    Json killed = job;
    killed.update({{"fault", "kill"}, {"fault_rank", ranks == 2 ? 1 : 0}, {"fault_stage", stage}, {"fault_done", done}});
    EXPECT_NE(run_ranks(ranks, name, killed).status, 0) << stage;
    EXPECT_FALSE(std::filesystem::exists(folder_of(name) + "/result.json")) << stage;
    ranks = 3 - ranks;  // 1 after 2, 2 after 1
  }
  succeed(2, name, job);
  expect_same_files(one_rank(), name);
  expect_same_steps(one_rank(), name);
  expect_same_weights(one_rank(), name);
}

TEST(Ranks, KilledTogetherEndWithTheSameBits) {
  const Json job = with_large_eps({{"distributed", {{"sharding", "optimizer"}}}});
  succeed(2, "at-once", job);
  Json killed = job;
  killed.update({{"fault", "kill"}, {"fault_rank", 0}, {"fault_stage", "preference"}, {"fault_done", 3}});
  EXPECT_NE(run_ranks(2, "killed-once", killed).status, 0);
  succeed(2, "killed-once", job);
  EXPECT_EQ(read_file(folder_of("at-once") + "/checkpoint/model.safetensors"),
            read_file(folder_of("killed-once") + "/checkpoint/model.safetensors"));
}

TEST(Ranks, ShareStagesThatAreRunAlone) {
  Json job = with_large_eps();
  job["stages"] = {"sample", "split", "judge", "pairs", "train"};
  succeed(2, "stages", job);
  expect_same_files(one_rank(), "stages");
  expect_same_weights(one_rank(), "stages");
}

TEST(Ranks, GoThroughALoopWithItsEvaluation) {
  // Candidates are kept under full sharding.
  Json set = {{"rounds", 2},
              {"num_prompts", 6},
              {"distributed", {{"sharding", "full"}}},
              {"preference", {{"keep_every", 1}}}};
  LoopEvaluationConfig evaluation;
  evaluation.source.scenes = test::tiny_scenes("detailed");
  evaluation.source.seed = 99;
  evaluation.count = 5;
  evaluation.settings.batch = 2;
  evaluation.settings.max_new_tokens = 30;
  evaluation.largest_recall_loss = 1;
  set["evaluation"] = config_to_json(evaluation);
  succeed(1, "loop-one", with_large_eps(set));
  succeed(2, "loop-two", with_large_eps(set));
  for (const char* round : {"/round-1", "/round-2"}) {
    // Round 2 samples from weights that differ in their last bits, so its answers may.
    if (std::string(round) == "/round-1") expect_same_files(std::string("loop-one") + round, std::string("loop-two") + round);
    const auto one = test::read_lines(folder_of("loop-one") + round + "/evaluation.jsonl");
    const auto two = test::read_lines(folder_of("loop-two") + round + "/evaluation.jsonl");
    ASSERT_EQ(one.size(), two.size());
    ASSERT_GE(one.size(), 3U);
  }
  // The first candidate is the same checkpoint for both: its figures are the same to the last bit.
  EXPECT_EQ(test::read_lines(folder_of("loop-one") + "/round-1/evaluation.jsonl")[0].at("figures"),
            test::read_lines(folder_of("loop-two") + "/round-1/evaluation.jsonl")[0].at("figures"));
  const auto kept = test::copy_weights(load_model(folder_of("loop-two") + "/round-1/candidates/step-000001"));
  for (const auto& [name, weight] : test::copy_weights(load_model(folder_of("loop-one") + "/round-1/candidates/step-000001")))
    EXPECT_LT(relative(kept.at(name), weight), 1e-6) << name;
}

TEST(Ranks, AreNamedWhenOneFails) {
  Json job = with_large_eps();
  job.update({{"fault", "throw"}, {"fault_rank", 1}, {"fault_stage", "judge"}, {"fault_done", 3}});
  const Outcome outcome = run_ranks(2, "throws", job);
  EXPECT_NE(outcome.status, 0);
  EXPECT_NE(outcome.status, 124) << "the job had to be ended by the test's own timeout";
  EXPECT_NE(outcome.output.find("rank 1: this rank has had enough"), std::string::npos) << outcome.output;
}

TEST(Ranks, MustHaveTheSameModels) {
  Json job = with_large_eps();
  job["judge_of_rank_1"] = test::tiny_policy_folder();
  const Outcome outcome = run_ranks(2, "other-judge", job);
  EXPECT_NE(outcome.status, 0);
  EXPECT_NE(outcome.output.find("rank 1 has another judge than rank 0"), std::string::npos) << outcome.output;
}

}  // namespace
}  // namespace pocketvlm
