#include "rlaif/rollout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/base64.h"
#include "base/files.h"
#include "base/random.h"
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

// Prompts join as others end; whichever are decoded together, the answers stay the same, and so do the bytes of the file.
TEST_F(Rollout, DrawsTheSameHoweverManyAreDecodedTogether) {
  config_.batch = 8;
  config_.rollout.max_new_tokens = 20;
  const std::string all = fresh("all-together.jsonl");
  const auto together = sample(all);
  std::set<std::size_t> lengths;
  for (const std::int64_t branches : {5, 12}) {
    config_.rollout.max_branches = branches;
    const std::string path = fresh("some-together.jsonl");
    const auto some = sample(path);
    ASSERT_EQ(some.size(), together.size());
    for (std::size_t i = 0; i < some.size(); ++i) {
      EXPECT_EQ(some[i].key, together[i].key) << "no answer depends on it";
      for (std::size_t j = 0; j < some[i].answers.size(); ++j) {
        EXPECT_EQ(some[i].answers[j].ids, together[i].answers[j].ids) << i << " " << j;
        lengths.insert(some[i].answers[j].ids.size());
      }
    }
    const std::string bytes = read_file(path);
    const std::string again = fresh("some-again.jsonl");
    sample(again);
    EXPECT_EQ(read_file(again), bytes);
  }
  EXPECT_GT(lengths.size(), 1u) << "answers end at different tokens";
  Json json = config_to_json(test::tiny_round());
  json["rollout"]["max_branches"] = 4;
  const std::string error = test::error_of([&] { read_config<RlaifConfig>(json, "loop.json"); });
  EXPECT_NE(error.find("rollout.max_branches: 4 has no room for the 5 answers of a prompt"), std::string::npos) << error;
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

// Answers are bound to the pictures that they were made from.
TEST_F(Rollout, AreNotContinuedWithAnotherPicture) {
  const std::string folder = test::test_folder();
  write_file_atomic(folder + "/b.png", encode_png(test::tiny_pictures()(0)));
  write_file_atomic(folder + "/one.jsonl", Json{{"image_path", "b.png"}, {"question", "what is this?"}}.dump() + "\n");
  config_.instructions = folder + "/one.jsonl";
  const std::string path = fresh("bound.jsonl");
  sample(path);
  const std::string bytes = read_file(path);
  sample(path);
  EXPECT_EQ(read_file(path), bytes);
  write_file_atomic(folder + "/b.png", encode_png(test::tiny_pictures()(1)));
  const std::string error = test::error_of([&] { sample(path); });
  EXPECT_NE(error.find("made from another picture or question, or by another policy"), std::string::npos) << error;
}

// Log-probs of the sampled tokens stand beside them, as the generator says them, rounded.
TEST_F(Rollout, SayHowLikelyTheirTokensWere) {
  const auto prompts = sample(fresh("likely.jsonl"));
  const Picture picture = Prompts(config_).at(0);
  Chat chat;
  chat.turns.push_back({"user", picture.question});
  chat.images.push_back(picture.image);
  SamplingConfig sampling;
  sampling.temperature = config_.rollout.temperature;
  sampling.max_new_tokens = config_.rollout.max_new_tokens;
  sampling.num_samples = config_.rollout.samples;
  sampling.seed = mix_keys({config_.seed, 0x726F6C6C});
  const auto made = generate(policy_.model, *policy_.encoder, policy_.encoder->encode(chat, true), sampling, 0);
  for (std::size_t s = 0; s < made.size(); ++s) {
    const Answer& answer = prompts[0].answers[s];
    ASSERT_EQ(answer.ids, made[s].ids);
    ASSERT_EQ(answer.log_probs.size(), answer.ids.size());
    for (std::size_t t = 0; t < answer.ids.size(); ++t) {
      EXPECT_NEAR(answer.log_probs[t], made[s].log_probs[t], 1e-4);  // decoded beside other prompts
      EXPECT_EQ(answer.log_probs[t], std::round(answer.log_probs[t] * 1e6) / 1e6);
    }
  }
}

TEST_F(Rollout, SayWhatCutThem) {
  const auto cuts_of = [](const std::vector<PromptAnswers>& prompts) {
    std::set<std::string> cuts;
    for (const PromptAnswers& prompt : prompts) {
      for (const Answer& answer : prompt.answers) {
        EXPECT_EQ(answer.finished, answer.cut.empty());
        if (!answer.finished) cuts.insert(answer.cut);
      }
    }
    return cuts;
  };
  config_.num_prompts = 2;
  config_.rollout.max_new_tokens = 3;
  EXPECT_EQ(cuts_of(sample(fresh("short.jsonl"))), (std::set<std::string>{"max_new_tokens"}));
  config_.rollout.max_new_tokens = 40;
  config_.rollout.repetition_penalty = 0.02;  // what was said is said again
  config_.rollout.max_repeats = 3;
  EXPECT_EQ(cuts_of(sample(fresh("again.jsonl"))).count("max_repeats"), 1u);
  config_.rollout = test::tiny_round().rollout;
  const auto length = [&] {
    const Picture picture = Prompts(config_).at(0);
    return static_cast<std::int64_t>(
        policy_.encoder->encode({{{"user", config_.instruction}}, {picture.image}}, true).ids.size());
  };
  while (length() + 4 < policy_.config.language.max_positions) config_.instruction += " a";
  config_.rollout.min_new_tokens = 30;
  EXPECT_EQ(cuts_of(sample(fresh("full.jsonl"))), (std::set<std::string>{"language.max_positions"}));
}

TEST_F(Rollout, EndAtTheIdsThatTheConfigNames) {
  config_.num_prompts = 2;
  const auto plain = sample(fresh("plain-ids.jsonl"));
  ASSERT_FALSE(plain[0].answers[0].ids.empty());
  config_.rollout.stop_ids = {plain[0].answers[0].ids.front()};
  const auto stopped = sample(fresh("stopped-ids.jsonl"));
  EXPECT_TRUE(stopped[0].answers[0].ids.empty());
  EXPECT_TRUE(stopped[0].answers[0].finished);
  config_.rollout.stop_ids = {1 << 20};
  const std::string error = test::error_of([&] { sample(fresh("no-ids.jsonl")); });
  EXPECT_NE(error.find("stop_ids holds 1048576"), std::string::npos) << error;
  Json json = config_to_json(test::tiny_round());
  json["rollout"]["max_repeats"] = 1;
  const std::string once = test::error_of([&] { read_config<RlaifConfig>(json, "loop.json"); });
  EXPECT_NE(once.find("rollout.max_repeats: 1 would cut every answer"), std::string::npos) << once;
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
