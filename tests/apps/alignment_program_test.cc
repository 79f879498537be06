#include <gtest/gtest.h>

#include <filesystem>

#include "base/config.h"
#include "base/files.h"
#include "rlaif/jsonl_log.h"
#include "tests/apps/program.h"
#include "tests/rlaif/tiny_round.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

// `pocketvlm rlaif ...` as users type it, on tiny checkpoints, in a folder of its own.
class AlignmentProgram : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder() = test::test_folder() + "/program";
    make_folders(folder());
    RlaifConfig config = test::tiny_round();
    config.policy = test::tiny_policy_folder();
    config.judge = test::tiny_judge_folder();
    config.num_prompts = 6;
    write_json(folder() + "/round.json", config_to_json(config));
    config.name = "loop";
    config.rounds = 2;
    config.preference.keep_every = 1;
    config.evaluation.emplace();
    config.evaluation->source.scenes = test::tiny_scenes("detailed");
    config.evaluation->source.seed = 99;
    config.evaluation->count = 4;
    config.evaluation->settings.max_new_tokens = 30;
    config.evaluation->largest_recall_loss = 1;
    write_json(folder() + "/loop.json", config_to_json(config));
    ASSERT_EQ(pocketvlm("rlaif loop.json").status, 0) << pocketvlm("rlaif loop.json").err;
  }

  static std::string& folder() {
    static std::string folder;
    return folder;
  }
  static Outcome pocketvlm(const std::string& arguments) {
    return run_program("cd " + folder() + " && " + program("pocketvlm") + " " + arguments);
  }
  static std::string path(const std::string& name) { return folder() + "/" + name; }
  static std::string done(const std::string& arguments) {
    const Outcome outcome = pocketvlm(arguments);
    EXPECT_EQ(outcome.status, 0) << arguments << "\n" << outcome.err;
    return outcome.out;
  }
  static Json told(const std::string& arguments) { return parse_json(done(arguments + " --json"), arguments); }
  // Error text of a command that is refused.
  static std::string refused(const std::string& arguments) {
    const Outcome outcome = pocketvlm(arguments);
    EXPECT_NE(outcome.status, 0) << arguments;
    return outcome.err;
  }
};

TEST_F(AlignmentProgram, GoesThroughALoopAndContinuesItOnlyWhenAsked) {
  const std::string again = refused("rlaif loop.json");
  EXPECT_NE(again.find("runs/loop: exists; continue it with --resume"), std::string::npos) << again;
  const Json whole = read_json(path("runs/loop/result.json"));
  ASSERT_EQ(whole.at("rounds").size(), 2u);
  const std::string weights = read_file(path("runs/loop/checkpoint/model.safetensors"));
  // What a kill before the end of round 2 leaves.
  for (const char* lost : {"result.json", "checkpoint", "round-2/result.json", "round-2/verdicts.jsonl", "round-2/evaluation.jsonl"})
    fs::remove_all(path("runs/loop/") + lost);
  done("rlaif loop.json --resume");
  EXPECT_EQ(read_file(path("runs/loop/checkpoint/model.safetensors")), weights);
  EXPECT_EQ(read_json(path("runs/loop/result.json")).at("rounds").at(1).at("choice"), whole.at("rounds").at(1).at("choice"));
  EXPECT_NE(refused("rlaif loop.json --resume --set pairs.score=rate").find("\"pairs/score\" differs"), std::string::npos);
}

TEST_F(AlignmentProgram, RunsEachStageAlone) {
  EXPECT_NE(refused("rlaif judge round.json --folder alone").find("pocketvlm rlaif sample"), std::string::npos);
  fs::remove_all(path("alone"));
  EXPECT_EQ(told("rlaif sample round.json --folder alone --round 2").at("rollout").at("answers"), 30);
  // The round is that of the folder from now on.
  EXPECT_NE(refused("rlaif split round.json --folder alone --round 1").find("prompts of round 2, not 1"), std::string::npos);
  done("rlaif split round.json --folder alone");
  EXPECT_GT(told("rlaif judge round.json --folder alone").at("judge").at("questions").get<int>(), 0);
  // The judge accepts little here: one verdict is made up, in a copy.
  fs::remove_all(path("margin"));
  fs::copy(path("alone"), path("margin"));
  std::string lines;
  for (Json row : read_jsonl(path("margin/verdicts.jsonl"))) {
    if (lines.empty()) row.update({{"p_yes", 0.6}, {"p_no", 0.2}, {"accepted", true}});
    lines += row.dump() + "\n";
  }
  write_file_atomic(path("margin/verdicts.jsonl"), lines);
  const std::string margin = refused("rlaif pairs round.json --folder margin --set judge_margin=0.5");
  EXPECT_NE(margin.find("was accepted under another judge_margin than 0.5"), std::string::npos) << margin;
  EXPECT_GT(told("rlaif pairs round.json --folder alone").at("pairs").at("pairs").get<int>(), 0);
  EXPECT_GT(told("rlaif train round.json --folder alone").at("preference").at("steps").get<int>(), 0);
  EXPECT_EQ(read_json(path("alone/round.json")).at("round"), 1);
  EXPECT_TRUE(fs::exists(path("alone/checkpoint/model.safetensors")));
  EXPECT_TRUE(fs::exists(path("alone/odd_cases.json")));
  const Json best = told("rlaif best round.json --folder alone --set policy=alone/checkpoint --reference " + test::tiny_policy_folder());
  EXPECT_EQ(best.at("prompts"), 6);
  for (const Json& row : read_jsonl(path("alone/best.jsonl"))) EXPECT_EQ(row.at("rewards").size(), 5u);
}

TEST_F(AlignmentProgram, MeasuresACheckpoint) {
  const Json figures = told("rlaif eval loop.json --checkpoint runs/loop/checkpoint");
  EXPECT_EQ(figures.at("chair_i"), read_json(path("runs/loop/round-2/choice.json")).at("figures").at("chair_i"));
  EXPECT_NE(refused("rlaif eval round.json --checkpoint runs/loop/checkpoint").find("evaluation: is null"), std::string::npos);
}

TEST_F(AlignmentProgram, AgreesWithClaimsThatPeopleWrote) {
  make_folders(path("claims"));
  write_file_atomic(path("claims/a.png"), encode_png(test::tiny_pictures()(0)));
  write_file_atomic(path("claims/claims.jsonl"),
                    R"({"image": "a.png", "claims": [{"text": "A cat can be seen in the picture.", "true": true}, )"
                    R"({"text": "A dog can be seen in the picture.", "true": false}]})"
                    "\n"
                    R"({"image": "gone.png", "claims": [{"text": "A dog can be seen in the picture.", "true": false}]})"
                    "\n");
  const Json figures = told("rlaif agree round.json --claims claims/claims.jsonl");
  EXPECT_EQ(figures.at("claims"), 2);
  EXPECT_EQ(figures.at("not_asked"), 1);
  const std::string text = done("rlaif agree round.json --claims claims/claims.jsonl");
  for (const char* part : {"2 about 1 pictures", "accuracy", "said yes", "pictures missing 1, with 1 claims", "gone.png"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST_F(AlignmentProgram, SpeaksTheRowsOfRlaifV) {
  done("rlaif export runs/loop/round-1 --out rows");
  std::string instructions;
  std::map<std::string, std::string> questions;
  for (const Json& row : read_jsonl(path("rows/answers.jsonl"))) {
    if (!questions.emplace(row.at("ds_question_id"), row.at("image_path")).second) continue;
    instructions += Json{{"ds_question_id", row.at("ds_question_id")}, {"image_path", row.at("image_path")}, {"question", row.at("raw_question")}}
                        .dump() +
                    "\n";
  }
  write_file_atomic(path("rows/instructions.jsonl"), instructions);
  const std::string set = " --set instructions=rows/instructions.jsonl --folder imported";
  const Json report = told("rlaif import round.json --answers rows/answers.jsonl --judged rows/judged.jsonl" + set);
  EXPECT_EQ(report.at("prompts"), questions.size());
  EXPECT_EQ(report.at("left_out"), Json::array());
  EXPECT_EQ(told("rlaif pairs round.json" + set).at("pairs").at("pairs"), read_jsonl(path("rows/pairs.jsonl")).size());
  done("rlaif train round.json --folder given --pairs rows/pairs.jsonl");
  EXPECT_EQ(read_file(path("given/checkpoint/model.safetensors")), read_file(path("runs/loop/round-1/checkpoint/model.safetensors")));
}

TEST_F(AlignmentProgram, ShowsARoundAndALoop) {
  done("rlaif view runs/loop/round-1 --count 1 --out page.html");
  EXPECT_NE(read_file(path("page.html")).find("1 shown"), std::string::npos);
  done("rlaif view runs/loop");
  EXPECT_NE(read_file(path("runs/loop/view.html")).find("round-2/view.html"), std::string::npos);
  EXPECT_NE(read_file(path("runs/loop/round-2/view.html")).find("class=pair"), std::string::npos);
  EXPECT_FALSE(fs::exists(path("plot.html")));  // another command's default
  EXPECT_NE(refused("rlaif view rows-that-are-not-there").find("is no folder of a round"), std::string::npos);
}

TEST_F(AlignmentProgram, ScoresAnAnnotatedSet) {
  write_file_atomic(path("annotated.json"),
                    R"({"objects": {"dog": ["puppy"], "car": []},
                        "descriptions": [{"id": "1", "answer": "A puppy and a car.", "objects": ["dog"], "targets": ["car"]}]})");
  EXPECT_NE(done("rlaif score annotated.json").find("chair"), std::string::npos);
}

// The shipped ablation, on this loop.
TEST_F(AlignmentProgram, IsAblatedBySwitches) {
  const std::string inputs = " --set inputs.loop=loop.json --set inputs.policy=" + test::tiny_policy_folder() +
                             " --set inputs.judge=" + test::tiny_judge_folder() + " --set inputs.earlier=" + test::tiny_judge_folder();
  const std::string command = std::string("ablate ") + SOURCE_ROOT + "/configs/ablations/alignment.json --out ablation" + inputs;
  const std::string dry = done(command + " --dry-run");
  for (const char* part : {"--set splitter=whole --set pairs.score=probability", "--set pairs.choice=random", "--set pairs.score=rate",
                           "--set rollout.temperatures=[0.3,1.0,1.7]"})
    EXPECT_NE(dry.find(part), std::string::npos) << part << "\n" << dry;
  // The variants differ by their switches alone: two of them run here.
  Json config = read_json(std::string(SOURCE_ROOT) + "/configs/ablations/alignment.json");
  config["variants"] = Json::array({config["variants"][0], config["variants"][4]});
  write_json(path("two.json"), config);
  const Json table = told("ablate two.json --out ablation" + inputs);
  ASSERT_EQ(table.at("rows").size(), 2u);
  EXPECT_EQ(table.at("rows")[1].at("variant"), "random");
  const Json& round = table.at("rows")[0].at("figures");
  for (const char* metric : {"CHAIR_i before", "CHAIR_i", "recall", "yes/no error", "words"})
    EXPECT_TRUE(round.at(metric).at("mean").is_number()) << metric;
  EXPECT_EQ(round.at("CHAIR_i before"), table.at("rows")[1].at("figures").at("CHAIR_i before"));
}

}  // namespace
}  // namespace pocketvlm
