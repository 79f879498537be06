#include "rlaif/rollout.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/files.h"
#include "model/generation.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

class Rollout : public testing::Test {
 protected:
  std::vector<PromptAnswers> sample(const std::string& path) {
    JsonlLog log(path);
    return sample_answers(config_, policy_, "policy", pictures_, log);
  }
  std::string fresh(const std::string& name) {
    const std::string path = test::test_folder() + "/" + name;
    std::filesystem::remove(path);
    return path;
  }

  RlaifConfig config_ = test::tiny_round();
  Pictures pictures_{config_.prompts, config_.num_prompts};
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
  const std::string error = test::error_of([&] { Pictures(source, 1000); });
  EXPECT_NE(error.find("num_prompts"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
