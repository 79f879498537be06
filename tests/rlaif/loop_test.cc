#include "rlaif/loop.h"

#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/files.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

std::string folder_of(const std::string& name) { return test::test_folder() + "/" + name; }

Json run(const std::string& name, const RoundObserver& observer = {}) {
  return run_rlaif(test::tiny_round(),
                   test::tiny_policy_folder(),
                   test::tiny_judge_folder(),
                   folder_of(name),
                   observer);
}

void run_until_killed(const std::string& name, const std::string& stage, std::int64_t done) {
  run(name, [&](const std::string& now, std::int64_t count) {
    if (now == stage && count >= done) std::raise(SIGKILL);
  });
}

const std::vector<std::string>& decided_files() {
  static const std::vector<std::string> files = {"rollouts.jsonl",
                                                 "claims.jsonl",
                                                 "verdicts.jsonl",
                                                 "scores.jsonl",
                                                 "pairs.jsonl",
                                                 "reference.jsonl",
                                                 "checkpoint/model.safetensors"};
  return files;
}

TEST(Round, KilledInEveryStageEndsWithTheSameBits) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const auto& [stage, done] :
       std::vector<std::pair<std::string, std::int64_t>>{{"rollout", 6},
                                                         {"judge", 3},
                                                         {"judge", 8},
                                                         {"reference", 4},
                                                         {"preference", 1},
                                                         {"preference", 3}}) {
    EXPECT_EXIT(run_until_killed("killed", stage, done), testing::KilledBySignal(SIGKILL), "")
        << stage;
    // What a kill in the middle of a write leaves.
    if (stage == "rollout")
      std::ofstream(folder_of("killed") + "/rollouts.jsonl", std::ios::app)
          << "{\"prompt_id\": \"sc";
    if (stage == "judge")
      std::ofstream(folder_of("killed") + "/verdicts.jsonl", std::ios::app) << "{\"prompt";
  }
  EXPECT_FALSE(std::filesystem::exists(folder_of("killed") + "/result.json"));
  run("killed");
  run("whole");
  for (const std::string& file : decided_files()) {
    EXPECT_EQ(read_file(folder_of("killed") + "/" + file),
              read_file(folder_of("whole") + "/" + file))
        << file;
  }
  EXPECT_NE(read_file(folder_of("whole") + "/checkpoint/model.safetensors"),
            read_file(test::tiny_policy_folder() + "/model.safetensors"));
}

TEST(Round, ReportsWhatItDid) {
  const Json result = run("whole");
  EXPECT_EQ(result.at("rollout").at("answers"), 40);
  EXPECT_EQ(result.at("rollout").at("prompts"), 8);
  EXPECT_GT(result.at("claims").at("claims").get<int>(), 0);
  EXPECT_GT(result.at("judge").at("known").get<int>(), 0);
  EXPECT_GT(result.at("judge").at("mean_coverage").get<double>(), 0.5);
  EXPECT_GT(result.at("pairs").at("pairs").get<int>(), 0);
  EXPECT_EQ(result.at("pairs").at("pairs"), result.at("preference").at("pairs"));
  EXPECT_NEAR(result.at("preference").at("first").at("loss").get<double>(), std::log(2.0), 1e-4);
  for (const char* stage : {"rollout", "claims", "judge", "pairs", "preference"}) {
    EXPECT_GE(result.at("seconds").at(stage).get<double>(), 0) << stage;
  }
  // Every judged pair follows from the verdicts on file.
  std::map<std::pair<std::string, std::string>, bool> accepted;
  for (const Json& row : test::read_lines(folder_of("whole") + "/verdicts.jsonl")) {
    accepted[{row.at("prompt_id"), row.at("question")}] = row.at("accepted").get<bool>();
    EXPECT_EQ(row.at("accepted").get<bool>(),
              row.at("p_yes").get<double>() > row.at("p_no").get<double>());
  }
  std::map<std::pair<std::string, int>, double> scores;
  for (const Json& row : test::read_lines(folder_of("whole") + "/claims.jsonl")) {
    double& score = scores[{row.at("prompt_id"), row.at("sample")}];
    for (const Json& claim : row.at("claims"))
      score -= accepted.at({row.at("prompt_id"), claim.at("question")}) ? 0 : 1;
  }
  for (const Json& pair : test::read_lines(folder_of("whole") + "/pairs.jsonl")) {
    EXPECT_EQ(pair.at("chosen_score").get<double>(),
              (scores.at({pair.at("prompt_id"), pair.at("chosen_sample")})));
    EXPECT_EQ(pair.at("rejected_score").get<double>(),
              (scores.at({pair.at("prompt_id"), pair.at("rejected_sample")})));
    EXPECT_GT(pair.at("chosen_score").get<double>(), pair.at("rejected_score").get<double>());
  }
}

TEST(Round, IsNotRunTwice) {
  run("whole");
  const auto before = std::filesystem::last_write_time(folder_of("whole") + "/rollouts.jsonl");
  EXPECT_EQ(
      run("whole", [](const std::string&, std::int64_t) { FAIL(); }).at("rollout").at("answers"),
      40);
  EXPECT_EQ(std::filesystem::last_write_time(folder_of("whole") + "/rollouts.jsonl"), before);
}

TEST(Round, RefusesAFolderOfAnotherRound) {
  run("whole");
  RlaifConfig config = test::tiny_round();
  config.rollout.temperature = 0.5;
  const auto error_with = [&](const std::string& policy, const std::string& judge) {
    return test::error_of([&] { run_rlaif(config, policy, judge, folder_of("whole")); });
  };
  const std::string settings = error_with(test::tiny_policy_folder(), test::tiny_judge_folder());
  EXPECT_NE(settings.find("rollout/temperature"), std::string::npos) << settings;
  config = test::tiny_round();
  const std::string judge = error_with(test::tiny_policy_folder(), test::tiny_policy_folder());
  EXPECT_NE(judge.find("\"judge\" differs"), std::string::npos) << judge;
}

TEST(Round, NamesAJudgeThatDoesNotAnswerYesOrNo) {
  const std::string error = test::error_of([] {
    run_rlaif(test::tiny_round(),
              test::tiny_policy_folder(),
              test::tiny_policy_folder(),
              folder_of("mute"));
  });
  EXPECT_NE(error.find("judge " + test::tiny_policy_folder()), std::string::npos) << error;
  EXPECT_NE(error.find("train it on yes/no answers"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
