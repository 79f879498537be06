#include "rlaif/loop.h"

#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/files.h"
#include "rlaif/checkpoint_splitter.h"
#include "rlaif/rlaifv_rows.h"
#include "rlaif/round.h"
#include "rlaif/view.h"
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
  EXPECT_NE(settings.find("sample/rollout/temperature"), std::string::npos) << settings;
  config = test::tiny_round();
  const std::string judge = error_with(test::tiny_policy_folder(), test::tiny_policy_folder());
  EXPECT_NE(judge.find("\"judge/identity\" differs"), std::string::npos) << judge;
}

// Stages one at a time, each on the files of the one before, give what the whole round gives.
TEST(Round, CanBeRunStageByStage) {
  run("whole");
  RoundInputs inputs;
  inputs.policy = test::tiny_policy_folder();
  inputs.judge = test::tiny_judge_folder();
  inputs.folder = folder_of("staged");
  const RlaifConfig config = test::tiny_round();
  const std::string early = test::error_of([&] { run_stage_alone(config, inputs, "judge"); });
  EXPECT_NE(early.find("pocketvlm rlaif sample"), std::string::npos) << early;
  for (const char* stage : {"sample", "split", "judge", "pairs", "train"})
    run_stage_alone(config, inputs, stage);
  for (const std::string& file : decided_files()) {
    EXPECT_EQ(read_file(folder_of("staged") + "/" + file), read_file(folder_of("whole") + "/" + file))
        << file;
  }
}

TEST(Round, WorksOnThePromptsOfOneRound) {
  run("whole");
  RoundInputs inputs;
  inputs.policy = test::tiny_policy_folder();
  inputs.judge = test::tiny_judge_folder();
  inputs.folder = folder_of("whole");
  inputs.round = 1;
  const std::string error = test::error_of([&] { run_stage_alone(test::tiny_round(), inputs, "pairs"); });
  EXPECT_NE(error.find("works on the prompts of round 1, not 2"), std::string::npos) << error;
  EXPECT_EQ(read_round(folder_of("whole")), 0);
}

TEST(Round, CountsAndExplainsWhatIsOdd) {
  run("whole");
  std::map<std::string, Json> cases;
  for (const Json& one : read_json(folder_of("whole") + "/odd_cases.json")) {
    EXPECT_FALSE(one.at("effect").get<std::string>().empty());
    EXPECT_LE(one.at("count").get<int>(), one.at("of").get<int>()) << one;
    cases[one.at("stage").get<std::string>() + ": " + one.at("what").get<std::string>()] = one;
  }
  for (const char* what : {"sample: answers cut at max_new_tokens",
                           "sample: answers equal to an earlier one of their prompt",
                           "split: answers that state nothing",
                           "judge: questions too long for the judge",
                           "judge: judge output that is neither yes nor no",
                           "pairs: scores too close",
                           "pairs: length control",
                           "train: chosen and rejected are equal",
                           "train: longer than language.max_positions"})
    EXPECT_EQ(cases.count(what), 1u) << what;
  // The figures are those of the files.
  std::int64_t cut = 0;
  for (const Json& row : test::read_lines(folder_of("whole") + "/rollouts.jsonl"))
    cut += row.at("finished").get<bool>() ? 0 : 1;
  EXPECT_EQ(cases.at("sample: answers cut at max_new_tokens").at("count"), cut);
}

TEST(Round, CanBeReadAsAPage) {
  run("whole");
  const std::string page = view_page(folder_of("whole"), 3);
  const Json pair = test::read_lines(folder_of("whole") + "/pairs.jsonl").at(0);
  EXPECT_NE(page.find(pair.at("chosen").get<std::string>()), std::string::npos);
  EXPECT_NE(page.find("data:image/png;base64,"), std::string::npos);
  EXPECT_NE(page.find("<li class=no"), std::string::npos);
  EXPECT_NE(page.find("class=\"truth"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);  // needs nothing from outside
  EXPECT_NE(test::error_of([] { view_page(test::test_folder(), 3); }).find("config.json"), std::string::npos);
}

// RLAIF-V's rows, out and in again.
TEST(Round, SpeaksTheRowsOfRlaifV) {
  run("whole");
  const std::string out = folder_of("rows");
  export_rlaifv(folder_of("whole"), Prompts(test::tiny_round()), test::tiny_round(), out);
  const std::vector<Json> pairs = test::read_lines(out + "/pairs.jsonl");
  ASSERT_FALSE(pairs.empty());
  for (const char* field : {"image_id", "image_path", "ds_question_id", "question", "chosen", "rejected", "org_infos"})
    EXPECT_TRUE(pairs[0].contains(field)) << field;
  const Json judged = test::read_lines(out + "/judged.jsonl").at(0);
  for (const char* field : {"yes", "Yes", "no", "No"}) EXPECT_TRUE(judged.at("scores").contains(field)) << field;
  EXPECT_TRUE(judged.at("metainfos").contains("origin_fact"));

  // Training on the exported pairs is training on ours: pictures travel without loss.
  RlaifConfig config = test::tiny_round();
  RoundInputs inputs;
  inputs.policy = test::tiny_policy_folder();
  inputs.folder = folder_of("from-rows");
  inputs.pairs = out + "/pairs.jsonl";
  run_stage_alone(config, inputs, "train");
  EXPECT_EQ(read_file(folder_of("from-rows") + "/checkpoint/model.safetensors"),
            read_file(folder_of("whole") + "/checkpoint/model.safetensors"));
  EXPECT_EQ(read_json(folder_of("from-rows") + "/train_report.json").at("used"), pairs.size());

  // Single answers as TRL's KTO takes them.
  std::string singles;
  for (const Json& pair : pairs) {
    for (const bool good : {true, false}) {
      singles += Json{{"prompt", pair.at("question")},
                      {"completion", {{{"role", "assistant"}, {"content", pair.at(good ? "chosen" : "rejected")}}}},
                      {"label", good},
                      {"images", {pair.at("image_path")}}}
                     .dump() +
                 "\n";
    }
  }
  write_file_atomic(out + "/singles.jsonl", singles);
  RlaifConfig kto = config;
  kto.preference.loss = "kto";
  RoundInputs single_inputs = inputs;
  single_inputs.pairs = out + "/singles.jsonl";
  single_inputs.folder = folder_of("from-singles");
  run_stage_alone(kto, single_inputs, "train");
  EXPECT_EQ(read_json(folder_of("from-singles") + "/train_report.json").at("used"), 2 * pairs.size());
  EXPECT_TRUE(test::read_lines(folder_of("from-singles") + "/metrics.jsonl").at(0).contains("count/chosen"));

  // What was trained on one file of pairs is not continued on another.
  const auto rows = read_jsonl(out + "/pairs.jsonl");
  std::string fewer;
  for (std::size_t i = 1; i < rows.size(); ++i) fewer += rows[i].dump() + "\n";
  write_file_atomic(out + "/fewer.jsonl", fewer);
  inputs.pairs = out + "/fewer.jsonl";
  const std::string other = test::error_of([&] { run_stage_alone(config, inputs, "train"); });
  EXPECT_NE(other.find("\"pairs_trained_on/"), std::string::npos) << other;
  // Nor where a picture is another one under the same name.
  inputs.pairs = out + "/pairs.jsonl";
  const std::string picture = out + "/" + pairs[0].at("image_path").get<std::string>();
  const std::string before = read_file(picture);
  write_file_atomic(picture, encode_png(Image(56, 56)));
  EXPECT_NE(test::error_of([&] { run_stage_alone(config, inputs, "train"); }).find("\"pairs_trained_on/"), std::string::npos);
  write_file_atomic(picture, before);

  // Answers and verdicts of others, judged and paired here as they were there.
  std::string instructions;
  for (std::int64_t i = 0; i < config.num_prompts; ++i) {
    const Picture picture = Prompts(config).at(i);
    instructions += Json{{"ds_question_id", picture.id},
                         {"image_path", "images/" + std::to_string(i) + ".png"},
                         {"question", picture.question}}
                        .dump() +
                    "\n";
  }
  write_file_atomic(out + "/instructions.jsonl", instructions);
  config.instructions = out + "/instructions.jsonl";
  import_rlaifv(out + "/answers.jsonl", out + "/judged.jsonl", Prompts(config), config, folder_of("imported"));
  inputs.folder = folder_of("imported");
  config.pairs.length_control = false;
  const Json figures = run_stage_alone(config, inputs, "pairs");
  EXPECT_GT(figures.at("pairs").at("pairs").get<int>(), 0);
  EXPECT_EQ(figures.at("pairs").at("answers"), 40);
  const std::string stranger = test::error_of([&] {
    write_file_atomic(out + "/bad.jsonl", R"({"question_id": 1, "ds_question_id": "nobody", "answer": "a cat"})" "\n");
    import_rlaifv(out + "/bad.jsonl", "", Prompts(config), config, folder_of("bad"));
  });
  EXPECT_NE(stranger.find("bad.jsonl:1: ds_question_id \"nobody\""), std::string::npos) << stranger;
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

RlaifConfig tiny_loop() {
  RlaifConfig config = test::tiny_round();
  config.rounds = 2;
  config.num_prompts = 6;
  config.preference.keep_every = 1;
  config.evaluation.emplace();
  config.evaluation->source.scenes = test::tiny_scenes("detailed");
  config.evaluation->source.seed = 99;
  config.evaluation->count = 6;
  config.evaluation->settings.max_new_tokens = 30;
  config.evaluation->largest_recall_loss = 1;
  return config;
}

Json run_loop(const std::string& name, const RoundObserver& observer = {}) {
  return run_rlaif(tiny_loop(),
                   test::tiny_policy_folder(),
                   test::tiny_judge_folder(),
                   folder_of(name),
                   observer);
}

TEST(Loop, KilledInEveryStageOfRoundTwoEndsWithTheSameBits) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const char* stage : {"2/rollout", "2/split", "2/judge", "2/reference", "2/preference", "2/evaluate"}) {
    EXPECT_EXIT(run_loop("loop-killed",
                         [&](const std::string& now, std::int64_t) {
                           if (now == stage) std::raise(SIGKILL);
                         }),
                testing::KilledBySignal(SIGKILL),
                "")
        << stage;
  }
  const Json killed = run_loop("loop-killed");
  const Json whole = run_loop("loop-whole");
  for (const char* round : {"/round-1/", "/round-2/"}) {
    for (const std::string& file : decided_files()) {
      EXPECT_EQ(read_file(folder_of("loop-killed") + round + file),
                read_file(folder_of("loop-whole") + round + file))
          << round << file;
    }
  }
  EXPECT_EQ(read_file(folder_of("loop-killed") + "/checkpoint/model.safetensors"),
            read_file(folder_of("loop-whole") + "/checkpoint/model.safetensors"));
  // Rounds draw other pictures and other answers.
  EXPECT_NE(read_file(folder_of("loop-whole") + "/round-1/rollouts.jsonl"),
            read_file(folder_of("loop-whole") + "/round-2/rollouts.jsonl"));
  ASSERT_EQ(whole.at("rounds").size(), 2u);
  // The choice is the best of the candidates that were measured, the one the round began with among them.
  for (const Json& round : whole.at("rounds")) {
    const Json& choice = round.at("choice");
    ASSERT_GE(choice.at("candidates").size(), 3u);
    EXPECT_EQ(choice.at("candidates")[0].at("steps"), 0);
    double smallest = 1e9;
    for (const Json& candidate : choice.at("candidates"))
      smallest = std::min(smallest, candidate.at("hallucination").get<double>());
    for (const Json& candidate : choice.at("candidates")) {
      if (candidate.at("checkpoint") == choice.at("chosen")) {
        EXPECT_EQ(candidate.at("hallucination").get<double>(), smallest);
      }
    }
  }
  // The page of a loop names its rounds.
  const std::string page = view_page(folder_of("loop-whole"), 3);
  EXPECT_NE(page.find("round-2/view.html"), std::string::npos);
  EXPECT_NE(page.find("smallest CHAIR_i"), std::string::npos);
  // Not run twice.
  run_loop("loop-whole", [](const std::string&, std::int64_t) { FAIL(); });
}

Candidate candidate(double chair, double recall) {
  const Json kind = {{"accuracy", 1.0}};
  return {"", 0,
          {{"chair_i", chair},
           {"object_recall", recall},
           {"pope", {{"random", kind}, {"popular", kind}, {"adversarial", kind}}}}};
}

TEST(Loop, ChoosesTheLeastHallucinationThatKeepsRecall) {
  EXPECT_EQ(choose_candidate({candidate(0.3, 0.9), candidate(0.1, 0.86), candidate(0.0, 0.5)}, 0.9, 0.05), 1u);
  EXPECT_EQ(choose_candidate({candidate(0.3, 0.9), candidate(0.1, 0.5)}, 0.9, 0.05), 0u);
  EXPECT_EQ(choose_candidate({candidate(0.1, 0.9), candidate(0.1, 0.95)}, 0.9, 0.05), 0u);
  // Nothing keeps recall: the round changes nothing.
  EXPECT_EQ(choose_candidate({candidate(0.3, 0.2), candidate(0.1, 0.1)}, 0.9, 0.05), 0u);
}

// Where there is no such device, using it is an error.
TEST(Loop, EvaluatesOnTheDeviceOfItsConfig) {
  if (torch::cuda::is_available()) GTEST_SKIP() << "has one";
  const auto evaluation = *tiny_loop().evaluation;
  EXPECT_ANY_THROW(evaluate_checkpoint(evaluation, test::tiny_policy_folder(), "cuda"));
  RlaifConfig config = test::tiny_round();
  config.device = "cuda";
  EXPECT_ANY_THROW(CheckpointSplitter(test::tiny_policy_folder(), config));
}

TEST(Loop, RefusesSettingsThatCannotTakeEffect) {
  RlaifConfig config = test::tiny_round();
  config.preference.keep_every = 2;
  const std::string error = test::error_of([&] {
    run_rlaif(config, test::tiny_policy_folder(), test::tiny_judge_folder(), folder_of("keep"));
  });
  EXPECT_NE(error.find("keep_every"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
