#include "rlaif/checkpoint_judge.h"

#include <gtest/gtest.h>

#include "rlaif/verdicts.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

TEST(Judge, SaysTheSameOfManyQuestionsAsOfEachAlone) {
  CheckpointJudge judge(test::tiny_judge_folder(), test::tiny_round());
  const Image image = test::tiny_pictures()(0);
  const std::vector<std::string> questions = {
      "is there a cat in the picture?",
      "is there a dog on the left?",
      "is it true that a very long sentence with many words is here?",
      "is there an apple in the picture?"};
  const std::vector<Verdict> together = judge.verdicts(image, questions);
  ASSERT_EQ(together.size(), questions.size());
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const Verdict alone = judge.verdicts(image, {questions[i]}).at(0);
    EXPECT_NEAR(together[i].p_yes, alone.p_yes, 1e-5);
    EXPECT_NEAR(together[i].p_no, alone.p_no, 1e-5);
    EXPECT_GT(together[i].coverage(), 0.5);
    EXPECT_LE(together[i].coverage(), 1.0 + 1e-6);
  }
  EXPECT_TRUE(judge.verdicts(image, {}).empty());
  // Pictures matter: the verdict is about this one.
  EXPECT_NE(judge.verdicts(test::tiny_pictures()(1), questions)[0].p_yes, together[0].p_yes);
}

TEST(Judge, SaysTheSameWithASharedPrefix) {
  RlaifConfig config = test::tiny_round();
  EXPECT_TRUE(config.share_prefix);
  config.share_prefix = false;
  CheckpointJudge apart(test::tiny_judge_folder(), config);
  config.share_prefix = true;
  CheckpointJudge together(test::tiny_judge_folder(), config);
  const std::vector<std::string> questions = {"is there a cat in the picture?",
                                              "is there a dog on the left?",
                                              "is it true that a very long sentence is here?",
                                              "does the sign say STOP?"};
  for (std::int64_t i = 0; i < 3; ++i) {
    const Image image = test::tiny_pictures()(i);
    const auto expected = apart.verdicts(image, questions);
    const auto shared = together.verdicts(image, questions);
    for (std::size_t q = 0; q < questions.size(); ++q) {
      EXPECT_NEAR(shared[q].p_yes, expected[q].p_yes, 1e-5);
      EXPECT_NEAR(shared[q].p_no, expected[q].p_no, 1e-5);
    }
  }
}

// Answers come from a model that may write the mark itself.
TEST(Judge, TakesNoPictureFromAMarkInAQuestion) {
  RlaifConfig config = test::tiny_round();
  const Image image = test::tiny_pictures()(0);
  const std::vector<std::string> plain = {"is there a cat in the picture?", "is there a dog in the picture?"};
  const std::vector<std::string> marked = {"is there a cat<image> in the picture?",
                                           "<image>is there <ima<image>ge>a dog in<image> the picture?"};
  for (const bool share : {false, true}) {
    config.share_prefix = share;
    CheckpointJudge judge(test::tiny_judge_folder(), config);
    const auto expected = judge.verdicts(image, plain), actual = judge.verdicts(image, marked);
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(actual[i].p_yes, expected[i].p_yes);
  }
}

TEST(Judge, RejectsQuestionsThatAreTooLongForIt) {
  CheckpointJudge judge(test::tiny_judge_folder(), test::tiny_round());
  std::string question = "is it true that";
  for (int i = 0; i < 300; ++i) question += " cat";
  const auto verdicts =
      judge.verdicts(test::tiny_pictures()(0), {question, "is there a cat in the picture?"});
  EXPECT_FALSE(verdicts[0].asked());
  EXPECT_FALSE(verdicts[0].accepted());
  EXPECT_TRUE(verdicts[1].asked());
  EXPECT_GT(verdicts[1].coverage(), 0.5);
}

TEST(Verdict, AcceptsOnlyWhenYesIsStrictlyMoreLikely) {
  EXPECT_TRUE((Verdict{0.4, 0.3}.accepted()));
  EXPECT_FALSE((Verdict{0.4, 0.4}.accepted()));
  EXPECT_FALSE((Verdict{0.3, 0.4}.accepted()));
}

TEST(YesNoIds, AreTheFirstTokensUnderTheTemplate) {
  const LoadedModel model = test::tiny_model(1);
  const YesNoIds ids = yes_no_ids(*model.encoder);
  ASSERT_FALSE(ids.yes.empty());
  ASSERT_FALSE(ids.no.empty());
  EXPECT_EQ(model.tokenizer->piece_text(ids.yes[0]).substr(0, 1), "y");
  EXPECT_EQ(model.tokenizer->piece_text(ids.no[0]).substr(0, 1), "n");
}

// Says yes to questions with "cat", with a set coverage.
class CatJudge : public Judge {
 public:
  explicit CatJudge(double coverage) : coverage_(coverage) {}
  std::vector<Verdict> verdicts(const Image&, const std::vector<std::string>& questions) override {
    std::vector<Verdict> verdicts;
    for (const std::string& question : questions) {
      const bool yes = question.find("cat") != std::string::npos;
      verdicts.push_back({coverage_ * (yes ? 0.9 : 0.1), coverage_ * (yes ? 0.1 : 0.9)});
      ++asked;
    }
    return verdicts;
  }
  std::string name() const override { return "cat judge"; }
  std::string identity() const override { return "cat"; }
  int asked = 0;

 private:
  double coverage_;
};

class JudgedClaims : public testing::Test {
 protected:
  void SetUp() override {
    for (std::int64_t i = 0; i < config_.num_prompts; ++i) {
      const Picture picture = prompts_.at(i);
      PromptAnswers answers;
      answers.index = i;
      answers.id = picture.id;
      answers.picture_key = picture_key(picture.image);
      answers.answers.resize(2);
      answers_.push_back(std::move(answers));
      claims_.push_back({i,
                         picture.id,
                         answers_.back().picture_key,
                         {{split_claims("There is a cat."), ""},
                          {split_claims("There is a dog. a cat"), ""}}});
    }
  }

  std::vector<VerdictTable> judge(Judge& judge, const std::string& file) {
    JsonlLog log(test::test_folder() + "/" + file);
    agreement_ = {};
    return judge_claims(config_,
                        judge,
                        claims_,
                        answers_,
                        prompts_,
                        scene_vocabulary(config_.prompts.scenes),
                        log,
                        agreement_);
  }

  RlaifConfig config_ = test::tiny_round();
  Prompts prompts_{config_};
  std::vector<PromptAnswers> answers_;
  std::vector<PromptClaims> claims_;
  JudgeAgreement agreement_;
};

TEST_F(JudgedClaims, AreAskedOnceAPictureAndComparedWithTheTruth) {
  CatJudge cat_judge(1.0);
  const auto tables = judge(cat_judge, "cat.jsonl");
  ASSERT_EQ(tables.size(), 8u);
  EXPECT_EQ(cat_judge.asked, 16);  // two distinct claims a picture, not three
  EXPECT_TRUE(tables[0].at("is there a cat in the picture?").accepted());
  EXPECT_FALSE(tables[0].at("is there a dog in the picture?").accepted());
  EXPECT_EQ(agreement_.known, 16);
  std::int64_t cats = 0;
  std::int64_t dogs = 0;
  for (std::int64_t i = 0; i < 8; ++i) {
    const Json counts = prompts_.at(i).truth.at("counts");
    cats += counts.contains("cat") ? 1 : 0;
    dogs += counts.contains("dog") ? 1 : 0;
  }
  EXPECT_EQ(agreement_.accepted_true, cats);
  EXPECT_EQ(agreement_.accepted_false, 8 - cats);
  EXPECT_EQ(agreement_.rejected_true, dogs);
  EXPECT_EQ(agreement_.rejected_false, 8 - dogs);
  EXPECT_DOUBLE_EQ(agreement_.mean_coverage, 1.0);

  // A second call finds everything in the log.
  CatJudge idle(1.0);
  judge(idle, "cat.jsonl");
  EXPECT_EQ(idle.asked, 0);
  EXPECT_EQ(agreement_.accepted_true, cats);
}

TEST_F(JudgedClaims, AreWorthlessWithoutCoverage) {
  CatJudge mute(0.4);
  const std::string error = test::error_of([&] { judge(mute, "mute.jsonl"); });
  EXPECT_NE(error.find("cat judge"), std::string::npos) << error;
  EXPECT_NE(error.find("0.400"), std::string::npos) << error;
}

TEST_F(JudgedClaims, NeedThePictureThatWasSampledFrom) {
  answers_[4].picture_key = "another";
  CatJudge cat_judge(1.0);
  const std::string error = test::error_of([&] { judge(cat_judge, "changed.jsonl"); });
  EXPECT_NE(error.find("picture 4"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
