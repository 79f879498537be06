#include "rlaif/rollout.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/base64.h"
#include "base/files.h"
#include "model/generation.h"
#include "rlaif/best_of_n.h"
#include "rlaif/preference_training.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

class Rollout : public testing::Test {
 protected:
  std::vector<PromptAnswers> sample(const std::string& path) {
    JsonlLog log(path);
    return sample_answers(config_, policy_, "policy", Prompts(config_), log);
  }
  std::string fresh(const std::string& name) {
    const std::string path = test::test_folder() + "/" + name;
    std::filesystem::remove(path);
    return path;
  }

  RlaifConfig config_ = test::tiny_round();
  LoadedModel policy_ = load_model(test::tiny_policy_folder());
};

TEST_F(Rollout, GivesEveryPromptItsAnswers) {
  const auto prompts = sample(fresh("rollouts.jsonl"));
  ASSERT_EQ(prompts.size(), 8u);
  std::set<std::string> texts;
  for (const PromptAnswers& prompt : prompts) {
    ASSERT_EQ(prompt.answers.size(), 5u);
    EXPECT_EQ(prompt.skipped, "");
    for (const Answer& answer : prompt.answers) {
      texts.insert(answer.text);
      EXPECT_EQ(policy_.tokenizer->decode(answer.ids), answer.text);
    }
  }
  EXPECT_GT(texts.size(), 8u);  // answers differ
}

TEST_F(Rollout, DrawsTheSameAloneAsInAGroup) {
  const auto together = sample(fresh("group.jsonl"));
  config_.batch = 1;
  const auto alone = sample(fresh("alone.jsonl"));
  for (std::size_t i = 0; i < together.size(); ++i) {
    for (std::size_t j = 0; j < together[i].answers.size(); ++j) {
      EXPECT_EQ(together[i].answers[j].ids, alone[i].answers[j].ids) << i << " " << j;
    }
  }
}

// Branch i of many is what the same seed draws alone, token for token.
TEST_F(Rollout, BranchesDoNotDependOnHowManyThereAre) {
  const auto many = sample(fresh("many.jsonl"));
  config_.rollout.samples = 2;
  const auto few = sample(fresh("few.jsonl"));
  for (std::size_t i = 0; i < many.size(); ++i) {
    for (std::size_t j = 0; j < 2; ++j)
      EXPECT_EQ(many[i].answers[j].ids, few[i].answers[j].ids) << i << " " << j;
  }
}

TEST_F(Rollout, MayGiveSamplesTemperaturesOfTheirOwn) {
  const auto plain = sample(fresh("plain.jsonl"));
  config_.rollout.temperatures = {1.0, 2.0};
  const auto mixed = sample(fresh("mixed.jsonl"));
  std::size_t others = 0;
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    ASSERT_EQ(mixed[i].answers.size(), 5u);
    for (std::size_t j = 0; j < 5; ++j)
      EXPECT_EQ(mixed[i].answers[j].sample, static_cast<std::int64_t>(j));
    for (std::size_t j = 0; j < 3; ++j)
      EXPECT_EQ(mixed[i].answers[2 * j].ids, plain[i].answers[j].ids);
    others += mixed[i].answers[1].ids != plain[i].answers[1].ids ? 1 : 0;
  }
  EXPECT_GT(others, 0u);
}

TEST_F(Rollout, TakesAnswersFromFreshPicturesEachRound) {
  const Prompts first(config_, 0);
  const Prompts second(config_, 1);
  EXPECT_NE(picture_key(first.at(0).image), picture_key(second.at(0).image));
  EXPECT_EQ(picture_key(first.at(0).image), picture_key(Prompts(config_).at(0).image));
}

TEST_F(Rollout, AsksTheQuestionsOfAnInstructionsFile) {
  const std::string folder = test::test_folder();
  write_file_atomic(folder + "/a.png", encode_png(test::tiny_pictures()(0)));
  const std::string rows =
      Json{{"ds_question_id", "one"}, {"image_path", "a.png"}, {"question", "what is this?"}}.dump() + "\n" +
      Json{{"id", 2}, {"image", encode_base64(encode_png(test::tiny_pictures()(1)))}, {"question", "and this?"}}.dump() +
      "\n" + Json{{"id", 3}, {"image_path", "missing.png"}, {"question", "and that?"}}.dump() + "\n";
  write_file_atomic(folder + "/instructions.jsonl", rows);
  config_.instructions = folder + "/instructions.jsonl";
  const auto answers = sample(fresh("asked.jsonl"));
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[0].question, "what is this?");
  EXPECT_EQ(answers[0].id, "one");
  EXPECT_EQ(answers[1].id, "2");
  EXPECT_EQ(answers[1].answers.size(), 5u);
  EXPECT_NE(answers[2].skipped.find("missing.png"), std::string::npos);  // counted, and the round goes on
  write_file_atomic(folder + "/bad.jsonl", "{\"image\": \"a.png\"}\n");
  config_.instructions = folder + "/bad.jsonl";
  EXPECT_NE(test::error_of([&] { Prompts prompts(config_); }).find("bad.jsonl:1: has no \"question\""), std::string::npos);
}

TEST_F(Rollout, AreRankedByImplicitReward) {
  const auto answers = sample(fresh("ranked.jsonl"));
  LoadedModel reference = load_model(test::tiny_policy_folder());
  LoadedModel policy = load_model(test::tiny_policy_folder());
  const PictureReader picture = [&](std::int64_t index) { return Prompts(config_).at(index).image; };
  PreferenceConfig preference = config_.preference;
  for (const RankedAnswers& same : rank_answers(preference, policy, reference, answers, picture)) {
    for (const auto& reward : same.rewards) EXPECT_NEAR(reward.value(), 0, 1e-6);
  }
  // A policy that was taught an answer prefers it.
  PreferencePair pair;
  pair.index = answers[0].index;
  pair.question = answers[0].question;
  pair.chosen = answers[0].answers[3].text;
  pair.rejected = answers[0].answers[0].text;
  if (pair.chosen == pair.rejected) pair.rejected = "There is a dog.";
  preference.epochs = 20;
  train_preferences(preference, policy, {pair}, picture, 1, "cpu", fresh("teach"));
  const auto ranked = rank_answers(preference, policy, reference, answers, picture);
  EXPECT_EQ(answers[0].answers[ranked[0].best].text, pair.chosen);
  EXPECT_GT(ranked[0].rewards[ranked[0].best].value(), 0);
}

TEST_F(Rollout, ContinuesBehindTheLastWholeGroup) {
  const std::string whole = fresh("whole.jsonl");
  sample(whole);
  const std::string bytes = read_file(whole);
  for (const double part : {0.1, 0.45, 0.8, 0.999}) {
    const std::string cut = fresh("torn.jsonl");
    std::ofstream(cut, std::ios::binary)
        << bytes.substr(0, static_cast<std::size_t>(part * static_cast<double>(bytes.size())));
    const auto prompts = sample(cut);
    EXPECT_EQ(prompts.size(), 8u);
    EXPECT_EQ(read_file(cut), bytes);
  }
}

TEST_F(Rollout, LeavesOutPicturesThatCannotBeRead) {
  config_.rollout.max_new_tokens = 4;
  for (int i = 0; i < 300; ++i) config_.instruction += " describe";
  const std::string error = test::error_of([&] { sample(fresh("too-long.jsonl")); });
  EXPECT_NE(error.find("none of 8 prompts"), std::string::npos) << error;
  EXPECT_NE(error.find("max_positions"), std::string::npos) << error;
}

TEST_F(Rollout, NeedsAsManyPicturesAsPrompts) {
  const std::string path = fresh("two.jsonl");
  std::ofstream(path) << "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
  SourceConfig source;
  source.kind = "text";
  source.path = path;
  config_.prompts = source;
  config_.num_prompts = 1000;
  const std::string error = test::error_of([&] { Prompts prompts(config_); });
  EXPECT_NE(error.find("num_prompts"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
