#include "rlaif/truth.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace pocketvlm {
namespace {

class Truth : public testing::Test {
 protected:
  std::optional<bool> ask(const std::string& question) const {
    return truth_of(question, truth_, 90, 90, vocabulary_);
  }

  ObjectVocabulary vocabulary_{{"cat", "dog", "ice cream"}, {{"cat", {"kitten"}}}};
  Json truth_ = {{"objects",
                  {{{"name", "cat"}, {"box", {0, 30, 30, 30}}},
                   {{"name", "cat"}, {"box", {5, 35, 20, 20}}},
                   {{"name", "ice cream"}, {"box", {60, 0, 30, 30}}}}},
                 {"sign", "STOP"}};
};

TEST_F(Truth, KnowsWhatIsThereAndWhere) {
  EXPECT_EQ(ask("is there a cat in the picture?"), true);
  EXPECT_EQ(ask("is there a kitten in the picture?"), true);
  EXPECT_EQ(ask("is there a dog in the picture?"), false);
  EXPECT_EQ(ask("is there an ice cream at the top right?"), true);
  EXPECT_EQ(ask("is there an ice cream in the upper right corner?"), true);
  EXPECT_EQ(ask("is there a cat on the left?"), true);
  EXPECT_EQ(ask("is the cat on the left side?"), true);
  EXPECT_EQ(ask("is there a cat at the top left?"), false);
  EXPECT_EQ(ask("is there a cat in the center?"), false);
}

// The form of truth.jsonl of a folder of photographs.
TEST_F(Truth, KnowsOfObjectsWithoutABoxThatTheyAreThere) {
  truth_ = {{"objects", {{{"name", "cat"}}}}, {"absent", {"dog"}}, {"sign", nullptr}};
  EXPECT_EQ(ask("is there a cat in the picture?"), true);
  EXPECT_EQ(ask("is there a dog in the picture?"), false);
  EXPECT_EQ(ask("is there an ice cream in the picture?"), std::nullopt);  // nobody looked for one
  EXPECT_EQ(ask("is there a cat on the left?"), std::nullopt);
  EXPECT_EQ(ask("are there two cats in the picture?"), std::nullopt);
  EXPECT_EQ(ask("is there a sign in the picture?"), false);
}

TEST(CheckTruth, NamesWhatDoesNotFit) {
  const auto error_of = [](const Json& truth) {
    try {
      check_truth(truth, "here:1");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(error_of({{"objects", {{{"name", "cat"}}}}}), "");
  EXPECT_EQ(error_of({{"objects", {{{"name", "cat"}, {"box", {1, 2, 3, 4.5}}}}}, {"absent", {"dog"}}, {"sign", nullptr}}), "");
  for (const Json& bad : {Json("cat"),
                          Json{{"objects", "cat"}},
                          Json{{"objects", {"cat"}}},
                          Json{{"objects", {{{"name", "cat"}, {"box", {1, 2}}}}}},
                          Json{{"objects", Json::array()}, {"absent", "dog"}},
                          Json{{"objects", Json::array()}, {"sign", 3}}}) {
    EXPECT_EQ(error_of(bad).find("here:1: truth"), 0u) << bad;
  }
}

TEST_F(Truth, CountsExactly) {
  EXPECT_EQ(ask("are there two cats in the picture?"), true);
  EXPECT_EQ(ask("are there 2 cats on the left?"), true);
  EXPECT_EQ(ask("are there three cats in the picture?"), false);
  EXPECT_EQ(ask("are there two dogs in the picture?"), false);
}

TEST_F(Truth, ReadsSigns) {
  EXPECT_EQ(ask("does the sign say STOP?"), true);
  EXPECT_EQ(ask("does the sign say GO?"), false);
  EXPECT_EQ(ask("is there a sign in the picture?"), true);
  EXPECT_EQ(ask("is there a sign at the top?"), std::nullopt);
}

TEST_F(Truth, IsSilentWhereItDoesNotKnow) {
  EXPECT_EQ(ask("is there a unicorn in the picture?"), std::nullopt);
  EXPECT_EQ(ask("is there a cat dog in the picture?"), std::nullopt);
  EXPECT_EQ(ask("is there a cat in the background?"), std::nullopt);
  EXPECT_EQ(ask("is it true that a cat sleeps?"), std::nullopt);
  EXPECT_EQ(ask(""), std::nullopt);
  EXPECT_EQ(truth_of("is there a cat in the picture?", Json(), 90, 90, vocabulary_), std::nullopt);
}

}  // namespace
}  // namespace pocketvlm
