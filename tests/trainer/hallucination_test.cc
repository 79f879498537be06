#include "trainer/hallucination.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tiny_stage.h"

namespace pocketvlm {
namespace {

ObjectVocabulary toy_vocabulary() {
  return ObjectVocabulary({"cat", "dog", "car", "tree", "ball"},
                          {{"cat", {"kitten"}}, {"car", {"automobile"}}});
}

TEST(Chair, GivesTheFiguresCountedByHand) {
  const ObjectVocabulary vocabulary = toy_vocabulary();
  const auto present = class_indices({{"cat", "dog"}, {"car"}, {"tree", "ball"}, {}}, vocabulary);
  // Mentions: cat, kitten, dog | car, dog! | ball | (none). The last answer names no object.
  const ChairScore score = score_answers(
      present,
      {"a cat, another kitten and a dog.", "a car beside a dog", "two balls", "nothing at all"},
      vocabulary);
  EXPECT_DOUBLE_EQ(score.chair_i, 1.0 / 6);
  EXPECT_DOUBLE_EQ(score.chair_s, 1.0 / 4);
  EXPECT_DOUBLE_EQ(score.object_recall, 4.0 / 5);
  EXPECT_DOUBLE_EQ(score.mean_answer_words, (7 + 5 + 2 + 3) / 4.0);
}

TEST(Chair, CountsEveryRepeatedHallucination) {
  const ObjectVocabulary vocabulary = toy_vocabulary();
  const auto present = class_indices({{"cat"}}, vocabulary);
  const ChairScore score = score_answers(present, {"a dog and a dog and a cat"}, vocabulary);
  EXPECT_DOUBLE_EQ(score.chair_i, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.chair_s, 1.0);
  EXPECT_DOUBLE_EQ(score.object_recall, 1.0);
}

TEST(Chair, IsZeroNotNanWithoutMentions) {
  const ChairScore score = score_answers({{}}, {""}, toy_vocabulary());
  EXPECT_EQ(score.chair_i, 0.0);
  EXPECT_EQ(score.object_recall, 0.0);
}

TEST(ClassIndices, KnowSynonymsAndNameStrangers) {
  const ObjectVocabulary vocabulary = toy_vocabulary();
  EXPECT_EQ(class_indices({{"automobile", "dog", "car"}}, vocabulary)[0], (std::vector<int>{1, 2}));
  EXPECT_NE(test::error_of([&] { class_indices({{"zebra"}}, vocabulary); }).find("\"zebra\""),
            std::string::npos);
}

TEST(YesNo, GivesTheFiguresCountedByHand) {
  // truth y y y n n n n; said y n y y n n n: 2 hits, 1 false alarm, 1 miss, 3 right refusals
  const YesNoScore score = score_yes_no({true, true, true, false, false, false, false},
                                        {true, false, true, true, false, false, false});
  EXPECT_DOUBLE_EQ(score.accuracy, 5.0 / 7);
  EXPECT_DOUBLE_EQ(score.precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.recall, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.f1, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.yes_ratio, 3.0 / 7);
  EXPECT_EQ(score.questions, 7);
  const YesNoScore never = score_yes_no({true, false}, {false, false});
  EXPECT_EQ(never.precision, 0.0);
  EXPECT_EQ(never.f1, 0.0);
}

TEST(Pope, PopularAndAdversarialNegativesAreTheOnesCountedByHand) {
  // 0 with 1 twice, 0 with 2 once; 3 is in four pictures, 4 in none.
  const std::vector<std::vector<int>> present = {{0}, {0, 1}, {0, 1}, {0, 2}, {3}, {3}, {3}, {3}};
  const auto questions = pope_questions(present, 5, 3, 0);
  ASSERT_EQ(questions.size(), present.size());
  EXPECT_EQ(questions[0].positive, (std::vector<int>{0}));
  EXPECT_EQ(questions[0].popular, (std::vector<int>{3}));      // in 4 pictures
  EXPECT_EQ(questions[0].adversarial, (std::vector<int>{1}));  // twice with 0
  EXPECT_EQ(questions[4].popular, (std::vector<int>{0}));      // also 4 pictures, but 3 is here
  // 3 is never with another: its adversarial negative is drawn.
  EXPECT_NE(questions[4].adversarial.at(0), 3);
  // Picture 1 has 0 and 1: beside 0 the absent 2 was seen; 1 was seen only with 0, which is here.
  ASSERT_EQ(questions[1].positive.size(), 2U);
  const std::size_t place_of_0 = questions[1].positive[0] == 0 ? 0 : 1;
  if (place_of_0 == 0) {
    EXPECT_EQ(questions[1].adversarial[0], 2);
  }
  EXPECT_EQ(questions[1].popular, (std::vector<int>{3, 2}));
}

TEST(Pope, NegativesAreAbsentDistinctAndAsManyAsPositives) {
  const std::vector<std::vector<int>> present = {{0, 1, 2, 3}, {4}, {}, {0, 1, 2, 3, 4}, {1, 2, 4}};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto all = pope_questions(present, 5, 2, seed);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::size_t absent = 5 - present[i].size();
      EXPECT_EQ(all[i].positive.size(), std::min({std::size_t{2}, present[i].size(), absent}));
      for (const auto* kind : {&all[i].random, &all[i].popular, &all[i].adversarial}) {
        EXPECT_EQ(kind->size(), all[i].positive.size());
        EXPECT_EQ(std::set<int>(kind->begin(), kind->end()).size(), kind->size());
        for (const int c : *kind) EXPECT_EQ(std::count(present[i].begin(), present[i].end(), c), 0);
      }
      for (const int c : all[i].positive)
        EXPECT_EQ(std::count(present[i].begin(), present[i].end(), c), 1);
    }
  }
  const auto a = pope_questions(present, 5, 2, 3), b = pope_questions(present, 5, 2, 3);
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(a[i].random, b[i].random) << "same seed, same questions";
}

TEST(Pope, AsksInTheWordsOfTheTrainingQuestions) {
  EXPECT_EQ(presence_question("cat"), "is there a cat in the picture?");
  EXPECT_EQ(presence_question("apple"), "is there an apple in the picture?");
}

}  // namespace
}  // namespace pocketvlm
