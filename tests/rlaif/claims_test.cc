#include "rlaif/claims.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "data/scenes/object_classes.h"
#include "data/scenes/scene_text.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

std::vector<std::string> questions_of(const std::string& answer) {
  std::vector<std::string> questions;
  for (const Claim& claim : split_claims(answer)) questions.push_back(claim.question);
  return questions;
}

using List = std::vector<std::string>;

TEST(Claims, NameTheObjectAndItsPlaceApart) {
  const std::vector<Claim> expected = {
      {"there is a cat", "is there a cat in the picture?"},
      {"there is a cat on the left", "is there a cat on the left?"},
      {"there is a dog", "is there a dog in the picture?"},
      {"there is a dog at the top right", "is there a dog at the top right?"},
  };
  EXPECT_EQ(split_claims("There is a cat on the left. There is a dog at the top right."), expected);
}

TEST(Claims, ComeFromCaptions) {
  const List expected = {"is there a cat in the picture?", "is there a dog in the picture?"};
  EXPECT_EQ(questions_of("a cat and a dog"), expected);
  EXPECT_EQ(questions_of("A picture of a cat, and a dog"), expected);
  EXPECT_EQ(questions_of("The image shows a cat, a dog."), expected);
  EXPECT_EQ(questions_of("cat, dog"), expected);
  EXPECT_EQ(questions_of("In the picture, I can see a cat and also there is a dog."), expected);
}

TEST(Claims, ComeFromWhatCanBeSeen) {
  EXPECT_EQ(questions_of("An airplane can be seen in the picture."), List({"is there an airplane in the picture?"}));
  EXPECT_EQ(questions_of("Sky can be seen in the picture."), List({"is there a sky in the picture?"}));
  EXPECT_EQ(questions_of("Hay bales can be seen in the photo."), List({"is there a hay bale in the picture?"}));
  EXPECT_EQ(questions_of("Stands can be seen in the picture."), List({"is there a stand in the picture?"}));
  EXPECT_EQ(questions_of("Two cats can be seen."),
            List({"is there a cat in the picture?", "are there two cats in the picture?"}));
  EXPECT_EQ(questions_of("A plate of food is visible."), List({"is there a plate of food in the picture?"}));
  EXPECT_EQ(questions_of("In the picture a cat and a dog can be seen on the left."),
            List({"is there a cat in the picture?",
                  "is there a cat on the left?",
                  "is there a dog in the picture?",
                  "is there a dog on the left?"}));
  // More than that something is there.
  EXPECT_EQ(questions_of("No cat can be seen in the picture."), List({"is it true that no cat can be seen in the picture?"}));
}

TEST(Claims, KeepNamesOfSeveralWords) {
  EXPECT_EQ(questions_of("There is an ice cream with a red umbrella at the bottom."),
            List({"is there an ice cream in the picture?",
                  "is there a red umbrella in the picture?",
                  "is there a red umbrella at the bottom?"}));
}

TEST(Claims, CountOnTopOfNaming) {
  EXPECT_EQ(questions_of("There are two cats on the left."),
            List({"is there a cat in the picture?",
                  "is there a cat on the left?",
                  "are there two cats on the left?"}));
  EXPECT_EQ(questions_of("three dogs"),
            List({"is there a dog in the picture?", "are there three dogs in the picture?"}));
  EXPECT_EQ(questions_of("There are several dogs."), List({"is there a dog in the picture?"}));
}

TEST(Claims, FollowPlacesInFront) {
  const List expected = {"is there a cat in the picture?", "is there a cat on the left?"};
  EXPECT_EQ(questions_of("On the left there is a cat."), expected);
  EXPECT_EQ(questions_of("On the left of the picture is a cat."), expected);
  EXPECT_EQ(questions_of("A cat is on the left."), expected);
  EXPECT_EQ(questions_of("The cat is on the left."),
            List({"is there a cat in the picture?", "is the cat on the left?"}));
}

TEST(Claims, KeepWhatIsWritten) {
  EXPECT_EQ(questions_of("There is a sign at the top. The sign says STOP."),
            List({"is there a sign in the picture?",
                  "is there a sign at the top?",
                  "does the sign say STOP?"}));
}

TEST(Claims, FallBackToTheSentence) {
  EXPECT_EQ(
      split_claims("A man rides his horse."),
      (std::vector<Claim>{{"A man rides his horse", "is it true that a man rides his horse?"}}));
  EXPECT_EQ(questions_of("There is no dog."), List({"is it true that there is no dog?"}));
  EXPECT_EQ(questions_of("There is nothing in the picture."),
            List({"is it true that there is nothing in the picture?"}));
  EXPECT_EQ(questions_of("There is a a cat"), List({"is it true that there is a a cat?"}));
  EXPECT_EQ(questions_of("There is a"), List({"is it true that there is a?"}));
  EXPECT_EQ(questions_of("cat sleeps"), List({"is it true that cat sleeps?"}));
}

TEST(Claims, CountOnceWhenRepeated) {
  EXPECT_EQ(questions_of("There is a cat. There is a cat. a cat"),
            List({"is there a cat in the picture?"}));
}

TEST(Claims, AreNoneInTextThatSaysNothing) {
  for (const char* text :
       {"", " \n\t ", "...", "?!", "- \n* ", "\xE3\x80\x82\xE3\x80\x82", "\xFF\xFE"}) {
    EXPECT_TRUE(split_claims(text).empty()) << text;
  }
}

TEST(Claims, SurviveOtherScriptsAndBrokenText) {
  EXPECT_EQ(questions_of("这只猫在睡觉。狗在跑。"), List({"is it true that 这只猫在睡觉?", "is it true that 狗在跑?"}));
  EXPECT_EQ(split_claims("caf\xC3\xA9 \xFF ok").size(), 1u);
  EXPECT_EQ(split_claims(std::string("a cat\0and a dog", 15)).size(), 1u);
  EXPECT_EQ(split_claims(std::string(100000, 'a')).size(), 1u);
  EXPECT_EQ(split_claims("\xF0\x9F\x90\xB1").size(), 1u);
}

TEST(Claims, SkipListMarksAndKeepNumbers) {
  EXPECT_EQ(
      split_sentences(
          "1. A cat\n2) A dog!\n- It costs 3.5 dollars, e.g. a lot. Mr. Smith pays; no. 5 wins"),
      List({"A cat", "A dog", "It costs 3.5 dollars, e.g. a lot", "Mr. Smith pays", "no. 5 wins"}));
  EXPECT_EQ(split_sentences("on the left.There is"), List({"on the left", "There is"}));
}

TEST(Claims, NothingIsCutAtThreeHundredWords) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "There is a thing" + std::to_string(i) + " on the left. ";
  const std::vector<Claim> claims = split_claims(text);
  ASSERT_EQ(claims.size(), 400u);
  EXPECT_EQ(claims.back().question, "is there a thing199 on the left?");
}

// The judge learns its questions from the embedded world; asking in other words would ask it what
// it never saw.
TEST(Claims, AskInTheWordsOfTheTrainingData) {
  for (const char* sprites : {"emoji", "stamps"}) {
    const std::vector<ObjectClass>& classes = curated_classes(sprites);
    for (std::size_t i = 0; i < classes.size(); ++i) {
      EXPECT_EQ(singular_of(plural_of(classes[i].name)), classes[i].name);
      for (int cell = 0; cell < 9; ++cell) {
        SceneFacts facts;
        facts.groups = {{static_cast<int>(i), cell, 1}};
        facts.counts = {{static_cast<int>(i), 1}};
        Random random({1});
        const auto say = [&](Query::Kind kind) {
          Query query;
          query.kind = kind;
          query.class_index = static_cast<int>(i);
          query.cell = cell;
          query.count = 2;
          return say_in_english(query, facts, classes, random, true);
        };
        EXPECT_EQ(questions_of(say(Query::kDetailed).answer),
                  List({say(Query::kExists).question, say(Query::kExistsAt).question}));
        // All phrasings of captions, also "a photo with two cats".
        for (int draw = 0; draw < 8; ++draw) {
          Query caption;
          caption.kind = Query::kCaption;
          caption.items = {{static_cast<int>(i), 1 + draw % 2}};
          List questions = {say(Query::kExists).question};
          if (draw % 2 == 1)
            questions.push_back(
                fmt::format("are there two {} in the picture?", plural_of(classes[i].name)));
          EXPECT_EQ(questions_of(say_in_english(caption, facts, classes, random, false).answer),
                    questions);
        }
        facts.groups[0].count = 2;
        EXPECT_EQ(questions_of(say(Query::kDetailed).answer)[0], say(Query::kExists).question);
      }
    }
  }
}

}  // namespace
}  // namespace pocketvlm
