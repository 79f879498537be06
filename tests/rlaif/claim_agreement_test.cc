#include "rlaif/claim_agreement.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "rules_files.h"

namespace pocketvlm {
namespace {

using test::fresh_folder;

/// Says yes where a cat is asked for, and cannot be asked about ducks.
class CatJudge : public Judge {
 public:
  std::vector<Verdict> verdicts(const Image&, const std::vector<std::string>& questions) override {
    std::vector<Verdict> verdicts;
    for (const std::string& question : questions) {
      asked.push_back(question);
      const bool cat = question.find("cat") != std::string::npos;
      verdicts.push_back({cat ? 0.9 : 0.2, cat ? 0.1 : 0.8, question.find("duck") != std::string::npos ? "too long" : ""});
    }
    return verdicts;
  }
  std::string name() const override { return "cat judge"; }
  std::string identity() const override { return "cat"; }
  std::vector<std::string> asked;
};

std::string error_of(const std::string& path) {
  RuleSplitter splitter;
  CatJudge judge;
  try {
    judge_claims_file(path, splitter, judge);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ClaimAgreement, CountsWhatTheJudgeSaysOfTrueAndFalseClaims) {
  const std::string folder = fresh_folder("agreement");
  make_folders(folder + "/images");
  write_file_atomic(folder + "/images/a.png", encode_png(Image(4, 4)));
  const auto claim = [](const char* text, bool truth) { return Json{{"text", text}, {"true", truth}}; };
  const std::string path = test::write_lines(
      folder + "/claims.jsonl",
      {{{"image", "images/a.png"},
        {"claims",
         {claim("A cat can be seen in the picture.", true),
          claim("A dog can be seen in the picture.", true),
          claim("A dog can be seen in the picture.", false),
          claim("A tomcat can be seen in the picture.", false),
          claim("A duck can be seen in the picture.", false)}}},
       {{"image", "images/missing.png"}, {"claims", {claim("A cat can be seen in the picture.", true)}}}});
  RuleSplitter splitter;
  CatJudge judge;
  const Json figures = judge_claims_file(path, splitter, judge).to_json();
  EXPECT_EQ(judge.asked.size(), 4u);  // a question is asked once
  EXPECT_EQ(judge.asked[0], "is there a cat in the picture?");
  EXPECT_EQ(figures.at("claims"), 5);
  EXPECT_EQ(figures.at("pictures"), 1);
  EXPECT_EQ(figures.at("problems"), 1);
  EXPECT_DOUBLE_EQ(figures.at("accuracy").get<double>(), 3.0 / 5);
  EXPECT_DOUBLE_EQ(figures.at("said_yes").get<double>(), 2.0 / 5);
  EXPECT_DOUBLE_EQ(figures.at("of_true").get<double>(), 1.0 / 2);
  EXPECT_DOUBLE_EQ(figures.at("of_false").get<double>(), 2.0 / 3);
  EXPECT_EQ(figures.at("not_asked"), 1);
  EXPECT_NEAR(figures.at("mean_coverage").get<double>(), 1.0, 1e-12);  // of the questions that were answered
  EXPECT_EQ(figures.at("missing").at(0).at("image"), "images/missing.png");
  EXPECT_NE(figures.at("missing").at(0).at("reason").get<std::string>().find("missing.png"), std::string::npos);
  EXPECT_EQ(figures.at("by_picture").at(0).at("rows").size(), 5u);
  EXPECT_EQ(figures.at("by_picture").at(0).at("claims"), 5);
}

TEST(ClaimAgreement, NamesTheLineThatDoesNotFit) {
  const std::string folder = fresh_folder("agreement-bad");
  for (const Json& bad : {Json{{"image", "a.png"}},
                          Json{{"image", "a.png"}, {"claims", {"a cat"}}},
                          Json{{"image", "a.png"}, {"claims", {{{"text", "a cat"}, {"true", "yes"}}}}}}) {
    const std::string error = error_of(test::write_lines(folder + "/claims.jsonl", {bad}));
    EXPECT_NE(error.find("claims.jsonl:1: is not of the form"), std::string::npos) << error;
  }
  const Json lost = {{"image", "a.png"}, {"claims", Json::array()}};
  EXPECT_NE(error_of(test::write_lines(folder + "/claims.jsonl", {lost})).find("none of its 1 pictures"), std::string::npos);
  EXPECT_NE(error_of(folder + "/nothing.jsonl").find("is not there"), std::string::npos);
}

// The claims that the project ships belong to its photographs, and become the questions that judges know.
TEST(ClaimAgreement, ReadsTheClaimsOfTheShippedPhotographs) {
  RuleSplitter splitter;
  CatJudge judge;
  const ClaimAgreement agreement = judge_claims_file(std::string(SOURCE_ROOT) + "/assets/photos/claims.jsonl", splitter, judge);
  const Json figures = agreement.to_json();
  EXPECT_EQ(figures.at("pictures"), 14);
  EXPECT_EQ(figures.at("claims"), 97);
  EXPECT_EQ(figures.at("true_claims"), 41);
  EXPECT_TRUE(figures.at("missing").empty());
  for (const auto& picture : agreement.pictures) {
    for (const auto& claim : picture.claims) {
      ASSERT_EQ(claim.questions.size(), 1u) << claim.text;
      EXPECT_EQ(claim.questions[0].find("is there a"), 0u) << claim.questions[0];
    }
  }
}

}  // namespace
}  // namespace pocketvlm
