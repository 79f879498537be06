#include "rlaif/round_files.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "rlaif/odd_cases.h"
#include "rlaif/rlaifv_rows.h"
#include "rlaif/verdicts.h"
#include "rules_files.h"

namespace pocketvlm {
namespace {

using test::fresh_folder;

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// A round's files about two prompts of three answers, none of them made by a model.
class RoundFiles : public testing::Test {
 protected:
  void SetUp() override {
    for (std::int64_t i = 0; i < 2; ++i) {
      PromptAnswers prompt;
      prompt.index = i;
      prompt.id = "p" + std::to_string(i);
      prompt.key = "k";
      prompt.picture_key = "picture " + std::to_string(i);
      prompt.question = "what?";
      for (std::int64_t s = 0; s < 3; ++s) {
        Answer answer{s, "There is a cat. There is a dog number " + std::to_string(s) + ".", {1, 2}};
        answer.log_probs = {-0.25, -1.234567};
        prompt.answers.push_back(answer);
      }
      prompts_.push_back(prompt);
      PromptClaims claims{i, prompt.id, prompt.picture_key, {}};
      for (const Answer& answer : prompt.answers) claims.answers.push_back({split_claims(answer.text), ""});
      claims_.push_back(claims);
    }
    prompts_[1].answers[0].finished = false;
    prompts_[1].answers[0].cut = "max_repeats";
    write();
  }

  void write() const {
    std::vector<Json> rollouts, claims, verdicts;
    for (std::size_t i = 0; i < 2; ++i) {
      for (const Json& row : to_rows(prompts_[i])) rollouts.push_back(row);
      for (const Json& row : to_rows(claims_[i], prompts_[i])) claims.push_back(row);
      for (const std::string& question : claims_[i].questions()) verdicts.push_back(to_row(claims_[i], question, {0.6, 0.4}, 0));
    }
    test::write_lines(folder_ + "/rollouts.jsonl", rollouts);
    test::write_lines(folder_ + "/claims.jsonl", claims);
    test::write_lines(folder_ + "/verdicts.jsonl", verdicts);
  }

  PreferencePair pair(std::size_t chosen, std::size_t rejected) const {
    const auto& answers = prompts_[0].answers;
    PreferencePair pair{prompts_[0].id, 0, "what?", answers[chosen].text, answers[rejected].text};
    pair.chosen_sample = answers[chosen].sample;
    pair.rejected_sample = answers[rejected].sample;
    pair.picture_key = prompts_[0].picture_key;
    return pair;
  }

  std::string folder_ = fresh_folder("round_files");
  std::vector<PromptAnswers> prompts_;
  std::vector<PromptClaims> claims_;
};

TEST_F(RoundFiles, AreReadAsTheyWereWritten) {
  const auto prompts = read_answers(folder_ + "/rollouts.jsonl");
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].answers[1].log_probs, (std::vector<double>{-0.25, -1.234567}));
  EXPECT_EQ(prompts[1].answers[0].cut, "max_repeats");
  EXPECT_TRUE(prompts[1].answers[1].finished);
  const auto claims = read_claims(folder_ + "/claims.jsonl", prompts);
  EXPECT_EQ(claims[1].picture_key, "picture 1");
  const auto verdicts = read_verdicts(folder_ + "/verdicts.jsonl", claims, 0);
  EXPECT_EQ(verdicts[0].size(), claims[0].questions().size());
}

TEST_F(RoundFiles, AreRefusedBesideOtherAnswers) {
  for (int change = 0; change < 3; ++change) {
    std::vector<PromptAnswers> others = prompts_;
    if (change == 0) others[0].answers[1].text = "Another answer.";
    if (change == 1) others[0].picture_key = "another picture";
    if (change == 2) others[0].question = "another question?";
    const std::string error = error_of([&] { read_claims(folder_ + "/claims.jsonl", others); });
    EXPECT_NE(error.find(change == 0 ? "claims.jsonl:2: was made from another answer" : "claims.jsonl:1: was made from another"),
              std::string::npos)
        << error;
  }
  std::vector<PromptClaims> others = claims_;
  others[1].picture_key = "another picture";
  const std::string error = error_of([&] { read_verdicts(folder_ + "/verdicts.jsonl", others, 0); });
  EXPECT_NE(error.find("is no verdict on the picture"), std::string::npos) << error;
  // Rows of an earlier version say nothing of what they were made from.
  std::vector<Json> old = read_jsonl(folder_ + "/claims.jsonl");
  for (Json& row : old) row.erase("key");
  test::write_lines(folder_ + "/claims.jsonl", old);
  EXPECT_NE(error_of([&] { read_claims(folder_ + "/claims.jsonl", prompts_); }).find("claims.jsonl:1: was made from another"),
            std::string::npos);
}

TEST_F(RoundFiles, RefuseVerdictsUnderAnotherMargin) {
  EXPECT_EQ(error_of([&] { read_verdicts(folder_ + "/verdicts.jsonl", claims_, 0.1); }), "");  // 0.6 > 0.4 + 0.1, too
  const std::string error = error_of([&] { read_verdicts(folder_ + "/verdicts.jsonl", claims_, 0.5); });
  EXPECT_NE(error.find("verdicts.jsonl:1: was accepted under another judge_margin than 0.5"), std::string::npos) << error;
}

TEST_F(RoundFiles, RefusePairsOfOtherAnswers) {
  const std::string path = folder_ + "/pairs.jsonl";
  EXPECT_NE(error_of([&] { read_pairs(path, prompts_); }).find("pocketvlm rlaif pairs"), std::string::npos);
  test::write_lines(path, {pair(0, 1).to_json(), pair(2, 1).to_json()});
  EXPECT_EQ(read_pairs(path, prompts_).size(), 2u);
  prompts_[0].answers[2].text = "Another answer.";
  const std::string error = error_of([&] { read_pairs(path, prompts_); });
  EXPECT_NE(error.find("pairs.jsonl:2: is a pair of other answers"), std::string::npos) << error;
}

TEST_F(RoundFiles, BelongToOneRound) {
  EXPECT_EQ(read_round(folder_), 0);
  check_round(folder_, 3);  // nothing is there yet
  write_round(folder_, 2, 5);
  EXPECT_EQ(read_round(folder_), 2);
  check_round(folder_, 2);
  EXPECT_NE(error_of([&] { check_round(folder_, 0); }).find("prompts of round 3, not 1; leave --round out"), std::string::npos);
}

TEST_F(RoundFiles, CountWhatIsOddByItsReason) {
  write_round(folder_, 2, 5);
  write_json(folder_ + "/train_report.json",
             {{"pairs", 7}, {"used", 4}, {"dropped", {{"chosen and rejected are equal", 2}, {"a picture is gone", 1}}}});
  std::vector<Json> verdicts = read_jsonl(folder_ + "/verdicts.jsonl");
  verdicts[0]["problem"] = "refused by the server: no";
  test::write_lines(folder_ + "/verdicts.jsonl", verdicts);
  std::map<std::string, std::int64_t> counts;
  for (const Json& one : odd_cases(folder_)) counts[one.at("what").get<std::string>()] = one.at("count").get<std::int64_t>();
  EXPECT_EQ(counts.at("answers cut at max_repeats"), 1);
  EXPECT_EQ(counts.at("answers cut at max_new_tokens"), 0);
  EXPECT_EQ(counts.at("answers cut at language.max_positions"), 0);
  EXPECT_EQ(counts.at("prompts that an earlier round had, too: the rounds need more than there are"), 5);
  EXPECT_EQ(counts.at("questions that the judge's server refused"), 1);
  EXPECT_EQ(counts.at("chosen and rejected are equal"), 2);
  EXPECT_EQ(counts.at("longer than language.max_positions"), 0);
  EXPECT_EQ(counts.at("a picture is gone"), 1);
}

/// Rows of others about three prompts, the last without a picture.
TEST(PairFiles, ReadSingleAnswersAsTrlTakesThem) {
  const std::string path = fresh_folder("single_answers") + "/kto.jsonl";
  const auto read = [&](const std::vector<Json>& rows) {
    test::write_lines(path, rows);
    return PairFile(path).pairs();
  };
  const Json plain = {{"prompt", "what?"}, {"completion", "a cat"}, {"label", true}, {"image", "a.png"}};
  Json messages = plain;
  messages["prompt"] = {{{"role", "user"}, {"content", {{{"type", "image"}}, {{"type", "text"}, {"text", "what?"}}}}}};
  messages["completion"] = {{{"role", "assistant"}, {"content", "a dog"}}};
  messages["label"] = false;
  messages["id"] = "seven";
  messages.erase("image");
  messages["images"] = {"a.png"};
  const auto pairs = read({plain, messages});
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_TRUE(pairs[0].single && pairs[0].is_desirable());
  EXPECT_EQ(pairs[0].chosen, "a cat");
  EXPECT_EQ(pairs[0].rejected, "");
  EXPECT_EQ(pairs[0].prompt_id, "0");
  EXPECT_TRUE(pairs[1].single && !pairs[1].is_desirable());
  EXPECT_EQ(pairs[1].completion(), "a dog");
  EXPECT_EQ(pairs[1].question, "what?");
  EXPECT_EQ(pairs[1].prompt_id, "seven");
  EXPECT_EQ(pairs[0].index, pairs[1].index) << "one picture";

  const auto error = [&](const char* field, const Json& value) {
    Json row = plain;
    row[field] = value;
    return error_of([&] { read({row}); });
  };
  EXPECT_NE(error("label", "good").find("kto.jsonl:1: \"label\" is neither true nor false"), std::string::npos);
  EXPECT_NE(error("completion", "").find("the completion is empty"), std::string::npos);
  EXPECT_NE(error("prompt", 1).find("\"prompt\" is neither text nor a list of one message of the user"), std::string::npos);
  EXPECT_NE(error("completion", {{{"role", "user"}, {"content", "a"}}}).find("one message of the assistant"), std::string::npos);
  EXPECT_NE(error("prompt", {{{"role", "user"}, {"content", 1}}}).find("neither text nor a list of parts"), std::string::npos);
  EXPECT_NE(error("images", {"a.png", "b.png"}).find("no list of one picture"), std::string::npos);
  EXPECT_NE(error_of([&] {
              read({plain, {{"idx", 1}, {"question", "q"}, {"chosen", "a"}, {"rejected", "b"}, {"image", "a.png"}}});
            }).find("kto.jsonl:2: single answers (\"label\") and pairs cannot stand in one file"),
            std::string::npos);
  Json without = plain;
  without.erase("prompt");
  EXPECT_NE(error_of([&] { read({without}); }).find("has no \"prompt\""), std::string::npos);
}

class ImportedRows : public testing::Test {
 protected:
  void SetUp() override {
    write_file_atomic(folder_ + "/a.png", encode_png(Image(4, 4)));
    config_.instructions = test::write_instructions(folder_,
                                                    {{{"id", "a"}, {"image_path", "a.png"}, {"question", "what?"}},
                                                     {{"id", "b"}, {"image_path", "a.png"}, {"question", "and?"}},
                                                     {{"id", "c"}, {"image_path", "gone.png"}, {"question", "who?"}}});
  }
  Json import(const std::vector<Json>& answers, const std::vector<Json>& judged) {
    const std::string rows = test::write_lines(folder_ + "/answers.jsonl", answers);
    const std::string said = judged.empty() ? "" : test::write_lines(folder_ + "/judged.jsonl", judged);
    return import_rlaifv(rows, said, Prompts(config_), config_, folder_ + "/round");
  }
  static Json answer(const char* id, const char* prompt, const char* text) {
    return {{"question_id", id}, {"ds_question_id", prompt}, {"answer", text}};
  }

  std::string folder_ = fresh_folder("imported");
  RlaifConfig config_;
};

TEST_F(ImportedRows, KeepFactsAndEnds) {
  Json first = answer("1", "a", "A cat sleeps.");
  first["facts"] = {"A cat is there.", "It sleeps."};
  first["changed_facts"] = {"Is a cat there?", "Does it sleep?"};
  first["metainfos"] = {{"finished", false}};
  Json second = answer("2", "a", "A dog.");
  second["facts"] = "### Facts:\n- A dog is there.\n";
  second["changed_facts"] = "- Is a dog there?\n";
  Json third = answer("3", "b", "Two.");
  third["facts"] = {"One.", "Two."};
  third["changed_facts"] = {"One?"};
  const Json report = import({first, second, third}, {});
  EXPECT_EQ(report.at("answers"), 3);
  EXPECT_EQ(report.at("claims"), 3);
  EXPECT_EQ(report.at("problems"), 1);
  ASSERT_EQ(report.at("left_out").size(), 1u);
  EXPECT_EQ(report.at("left_out")[0].at("prompt_id"), "c");
  EXPECT_NE(report.at("left_out")[0].at("reason").get<std::string>().find("gone.png"), std::string::npos);
  const auto answers = read_answers(folder_ + "/round/rollouts.jsonl");
  EXPECT_FALSE(answers[0].answers[0].finished);
  EXPECT_EQ(answers[0].answers[0].cut, "an unknown limit");
  EXPECT_TRUE(answers[0].answers[1].finished);
  EXPECT_FALSE(answers[2].skipped.empty());
  const auto claims = read_claims(folder_ + "/round/claims.jsonl", answers);
  EXPECT_EQ(claims[0].answers[0].claims[1], (Claim{"It sleeps.", "Does it sleep?"}));
  EXPECT_EQ(claims[0].answers[1].claims[0], (Claim{"A dog is there.", "Is a dog there?"}));
  EXPECT_EQ(claims[1].answers[0].problem, "2 facts, but 1 questions");
}

TEST_F(ImportedRows, CountAnswersToPromptsWithoutAPicture) {
  const Json judged = {{"question_id", "2"}, {"raw_question", "Is it?"}, {"scores", {{"yes", 0.9}, {"no", 0.1}}}};
  const Json report = import({answer("1", "a", "A cat."), answer("2", "c", "Nobody.")}, {judged});
  EXPECT_EQ(report.at("answers"), 1);
  std::map<std::string, int> left_out;
  for (const Json& one : report.at("left_out")) left_out[one.at("prompt_id")] = one.at("answers").get<int>();
  EXPECT_EQ(left_out, (std::map<std::string, int>{{"b", 0}, {"c", 1}}));
}

TEST_F(ImportedRows, ReadVerdictsOnTheQuestionsWithoutASuffix) {
  Json first = answer("1", "a", "A cat sleeps.");
  first["facts"] = {"A cat is there.", "It sleeps."};
  first["changed_facts"] = {"Is a cat there?", "Does it sleep?"};
  const Json judged = {{"question_id", "1"},
                       {"raw_question", "Is a cat there? Please answer yes or no."},
                       {"scores", {{"yes", 0.5}, {"Yes", 0.25}, {"no", 0.1}, {"No", 0.0}}},
                       {"metainfos", {{"origin_fact", "A cat is there."}, {"origin_changed_fact", "Is a cat there?"}}}};
  const Json report = import({first}, {judged});
  EXPECT_EQ(report.at("verdicts"), 1);
  const auto answers = read_answers(folder_ + "/round/rollouts.jsonl");
  const auto claims = read_claims(folder_ + "/round/claims.jsonl", answers);
  EXPECT_EQ(claims[0].answers[0].claims.size(), 1u);
  EXPECT_EQ(claims[0].answers[0].problem, "1 of its facts were not judged");  // it would seem better than it is
  const auto verdicts = read_verdicts(folder_ + "/round/verdicts.jsonl", claims, 0);
  EXPECT_DOUBLE_EQ(verdicts[0].at("Is a cat there?").p_yes, 0.75);
}

}  // namespace
}  // namespace pocketvlm
