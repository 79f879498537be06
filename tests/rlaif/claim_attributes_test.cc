#include "rlaif/claim_attributes.h"

#include <gtest/gtest.h>

#include "rlaif/claims.h"

namespace pocketvlm {
namespace {

using List = std::vector<std::string>;

List questions_of(const std::string& answer, ClaimDetail detail = ClaimDetail::kAttributes) {
  List questions;
  for (const Claim& claim : split_claims(answer, "", detail)) questions.push_back(claim.question);
  return questions;
}

TEST(ClaimAttributes, AreClaimsOfTheirOwn) {
  EXPECT_EQ(split_claims("There is a red ball on the left.", "", ClaimDetail::kAttributes),
            (std::vector<Claim>{{"there is a ball", "is there a ball in the picture?"},
                                {"there is a ball on the left", "is there a ball on the left?"},
                                {"the ball is red", "is the ball red?"}}));
  const std::vector<std::pair<std::string, List>> table = {
      {"a small dark red stone ball",
       {"is there a ball in the picture?", "is the ball small?", "is the ball dark red?", "is the ball made of stone?"}},
      {"There are two red balls on the left.",
       {"is there a ball in the picture?",
        "is there a ball on the left?",
        "are there two balls on the left?",
        "are the balls red?"}},
      {"several striped cats and a wooden table",
       {"is there a cat in the picture?", "are the cats striped?", "is there a table in the picture?", "is the table wooden?"}},
      {"The balls are black and white.", {"is there a ball in the picture?", "are the balls black and white?"}},
      {"The big car is wet, shiny and blue.",
       {"is there a car in the picture?", "is the car big?", "is the car wet?", "is the car shiny?", "is the car blue?"}},
      {"The wall is made of brick.", {"is there a wall in the picture?", "is the wall made of brick?"}},
      {"The sign says STOP.", {"does the sign say STOP?"}},
      {"A long-haired dog can be seen in the picture.", {"is there a dog in the picture?", "is the dog long-haired?"}},
      // Names that begin like an attribute.
      {"a hot dog, an orange and a white board",
       {"is there a hot dog in the picture?", "is there an orange in the picture?", "is there a white board in the picture?"}},
  };
  for (const auto& [answer, questions] : table) EXPECT_EQ(questions_of(answer), questions) << answer;
}

TEST(ClaimAttributes, DivideSentencesIntoClauses) {
  const std::vector<std::pair<std::string, List>> table = {
      {"A man rides a bike, and a dog runs behind him.",
       {"is it true that a man rides a bike?", "is it true that a dog runs behind him?"}},
      {"A woman holds an umbrella while the street is wet.",
       {"is it true that a woman holds an umbrella?", "is there a street in the picture?", "is the street wet?"}},
      {"The cat is black, but the dog is on the left.",
       {"is there a cat in the picture?", "is the cat black?", "is there a dog in the picture?", "is the dog on the left?"}},
      // One clause: the second part has nobody who does it, or no verb.
      {"A man sits on a bench and reads a book.", {"is it true that a man sits on a bench and reads a book?"}},
      {"A man rides between a car and a bus.", {"is it true that a man rides between a car and a bus?"}},
      {"It is raining.", {"is it true that it is raining?"}},
      {"The dog is running.", {"is it true that the dog is running?"}},
  };
  for (const auto& [answer, questions] : table) EXPECT_EQ(questions_of(answer), questions) << answer;
  EXPECT_EQ(clauses_of("A man sits, a dog lies"), (List{"A man sits, a dog lies"}));
}

TEST(ClaimAttributes, ChangeNothingUnlessAskedFor) {
  EXPECT_EQ(questions_of("a red ball on the left", ClaimDetail::kThings),
            (List{"is there a red ball in the picture?", "is there a red ball on the left?"}));
  EXPECT_EQ(questions_of("The ball is red.", ClaimDetail::kThings), (List{"is it true that the ball is red?"}));
  // Answers in other languages are divided as always.
  for (const char* answer : {"Links ist ein Hund.", "A sinistra c'\xC3\xA8 un cane."})
    EXPECT_EQ(questions_of(answer), questions_of(answer, ClaimDetail::kThings)) << answer;
  for (const char* answer : {"", "...", "red", "and", "is", "The is red.", "a a red", "The ball is", "red red red", ", and "})
    for (const std::string& question : questions_of(answer)) EXPECT_FALSE(question.empty()) << answer;
}

}  // namespace
}  // namespace pocketvlm
