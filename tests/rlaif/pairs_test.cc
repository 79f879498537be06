#include "rlaif/pairs.h"

#include <gtest/gtest.h>

#include <set>

namespace pocketvlm {
namespace {

std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += (i > 0 ? " " : "") + std::string("w") + std::to_string(i);
  return text;
}

PreferencePair pair_of(int words_chosen, int words_rejected) {
  PreferencePair pair;
  pair.chosen = words(words_chosen);
  pair.rejected = words(words_rejected);
  return pair;
}

PairConfig without_length_control() {
  PairConfig config;
  config.length_control = false;
  return config;
}

TEST(Pairs, PreferTheAnswerWithFewerRejectedClaims) {
  ScoredPrompt prompt{"p", 0, "what?", {{"good", 0, 3, 0}, {"bad", 1, 3, 2}}};
  PairReport report;
  const auto pairs = build_pairs({prompt}, without_length_control(), 1, report);
  ASSERT_EQ(pairs.size(), 1u);
  EXPECT_EQ(pairs[0].chosen, "good");
  EXPECT_EQ(pairs[0].rejected, "bad");
  EXPECT_EQ(pairs[0].question, "what?");
  EXPECT_EQ(pairs[0].chosen_score, 0);
  EXPECT_EQ(pairs[0].rejected_score, -2);
  EXPECT_EQ(pairs[0].to_json().at("rejected_sample"), 1);
}

TEST(Pairs, AreAtMostTwoAPromptOfAllCombinations) {
  ScoredPrompt prompt{"p", 7, "", {}};
  for (int i = 0; i < 10; ++i) prompt.answers.push_back({"answer " + std::to_string(i), i, 20, i});
  std::set<std::string> drawn;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    PairReport report;
    const auto pairs = build_pairs({prompt}, without_length_control(), seed, report);
    ASSERT_EQ(pairs.size(), 2u);
    EXPECT_EQ(report.combinations, 45);
    EXPECT_EQ(report.dropped_pairs.at("more than max_pairs_per_prompt"), 43);
    for (const PreferencePair& pair : pairs) {
      EXPECT_LT(pair.chosen_rejected_claims, pair.rejected_rejected_claims);
      drawn.insert(pair.chosen + " > " + pair.rejected);
    }
    PairReport again;
    EXPECT_EQ(build_pairs({prompt}, without_length_control(), seed, again)[0].chosen,
              pairs[0].chosen);
  }
  EXPECT_EQ(drawn.size(), 45u);  // every combination has its chance
}

TEST(Pairs, DropTiesEqualTextsUnfinishedAndEmptyAnswers) {
  const ScoredPrompt prompt{"p",
                            0,
                            "",
                            {{"same", 0, 2, 1},
                             {"same", 1, 2, 1},
                             {"tie", 2, 3, 1},
                             {"nothing", 3, 0, 0},
                             {"cut", 4, 3, 0, "max_repeats"},
                             {"worse", 5, 4, 2}}};
  PairReport report;
  const auto pairs = build_pairs({prompt}, without_length_control(), 3, report);
  EXPECT_EQ(report.answers, 6);
  EXPECT_EQ(report.dropped_answers.at("no claims"), 1);
  EXPECT_EQ(report.dropped_answers.at("cut at max_repeats"), 1);
  EXPECT_EQ(report.combinations, 6);  // of the four that are left
  EXPECT_EQ(report.dropped_pairs.at("equal texts"), 1);
  EXPECT_EQ(report.dropped_pairs.at("scores too close"), 2);
  // "same" > "worse" can be drawn once only, "tie" > "worse" is the other.
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_NE(pairs[0].chosen, pairs[1].chosen);
}

TEST(Pairs, NeedTheSmallestDifference) {
  const ScoredPrompt prompt{"p", 0, "", {{"a", 0, 9, 0}, {"b", 1, 9, 1}, {"c", 2, 9, 3}}};
  PairConfig config = without_length_control();
  config.min_difference = 3;
  PairReport report;
  const auto pairs = build_pairs({prompt}, config, 0, report);
  ASSERT_EQ(pairs.size(), 1u);
  EXPECT_EQ(pairs[0].chosen, "a");
  EXPECT_EQ(pairs[0].rejected, "c");
}

TEST(Pairs, ByRateForgiveLongAnswers) {
  // One of two claims against two of ten: the count prefers the short answer, the rate the long
  // one.
  const ScoredPrompt prompt{"p", 0, "", {{"short", 0, 2, 1}, {"long", 1, 10, 2}}};
  PairConfig config = without_length_control();
  PairReport report;
  EXPECT_EQ(build_pairs({prompt}, config, 0, report)[0].chosen, "short");
  config.score = "rate";
  const auto pairs = build_pairs({prompt}, config, 0, report);
  ASSERT_EQ(pairs.size(), 1u);
  EXPECT_EQ(pairs[0].chosen, "long");
  EXPECT_DOUBLE_EQ(pairs[0].chosen_score, -0.2);
  EXPECT_DOUBLE_EQ(pairs[0].rejected_score, -0.5);
  // 1/3 against 3/10: the rates differ by less than one claim of ten.
  const ScoredPrompt close{"p", 0, "", {{"short", 0, 3, 1}, {"long", 1, 10, 3}}};
  EXPECT_TRUE(build_pairs({close}, config, 0, report).empty());
}

TEST(Pairs, ByProbabilityCompareMeans) {
  ScoredPrompt prompt{"p", 0, "", {{"sure", 0, 2, 1}, {"unsure", 1, 2, 1}, {"close", 2, 2, 1}}};
  prompt.answers[0].probability_sum = 1.6;
  prompt.answers[1].probability_sum = 1.0;
  prompt.answers[2].probability_sum = 1.52;
  PairConfig config = without_length_control();
  config.score = "probability";
  config.max_pairs_per_prompt = 9;
  PairReport report;
  const auto pairs = build_pairs({prompt}, config, 0, report);
  EXPECT_EQ(pairs.size(), 2u);  // 0.8 against 0.76 is too close
  EXPECT_EQ(report.dropped_pairs.at("scores too close"), 1);
  for (const PreferencePair& pair : pairs) EXPECT_EQ(pair.rejected, "unsure");
}

TEST(Pairs, OfACoinAreTheSameCombinationsEitherWayRound) {
  ScoredPrompt prompt{"p", 0, "", {{"good", 0, 3, 0}, {"bad", 1, 3, 2}}};
  PairConfig config = without_length_control();
  config.choice = "random";
  int reversed = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    PairReport report;
    const auto pairs = build_pairs({prompt}, config, seed, report);
    ASSERT_EQ(pairs.size(), 1u);
    reversed += pairs[0].chosen == "bad" ? 1 : 0;
  }
  EXPECT_GT(reversed, 60);
  EXPECT_LT(reversed, 140);
}

TEST(Pairs, LeaveOutAnswersThatTheSplitterCouldNotRead) {
  ScoredPrompt prompt{"p", 0, "", {{"good", 0, 3, 0}, {"bad", 1, 3, 2}}};
  prompt.answers[0].unread = true;
  PairReport report;
  EXPECT_TRUE(build_pairs({prompt}, PairConfig{}, 0, report).empty());
  EXPECT_EQ(report.dropped_answers.at("no claims from the splitter"), 1);
}

TEST(Pairs, ComeBackFromTheirLines) {
  ScoredPrompt prompt{"p", 3, "what?", {{"good", 4, 3, 0}, {"bad", 6, 3, 2}}};
  PairReport report;
  const PreferencePair pair = build_pairs({prompt}, PairConfig{}, 0, report).at(0);
  EXPECT_EQ(PreferencePair::from_json(pair.to_json()).to_json(), pair.to_json());
}

TEST(LengthControl, DropsPairsWhoseChosenAnswerIsMuchShorter) {
  // Without control: means 20 and 30, gap 1/3. Dropping 10 vs 20 (r >= 0.5 is needed to keep it):
  // means 25 and 35, gap 2/7. Dropping 20 vs 40, too: mean 30 and 30, gap 0, reached at every r
  // below 0.5; the smallest is 0.
  const std::vector<PreferencePair> pairs = {pair_of(10, 20), pair_of(20, 40), pair_of(30, 30)};
  EXPECT_EQ(length_threshold(pairs), 0);
  EXPECT_TRUE(is_too_short(pairs[0], 0.48));
  EXPECT_FALSE(is_too_short(pairs[0], 0.5));  // 0.5 > 0.5 does not hold
  EXPECT_FALSE(is_too_short(pairs[2], 0));
}

TEST(LengthControl, IsOneSidedAndBalancesTheMeans) {
  // (8 - 10): chosen longer, never dropped. Thresholds that matter: 10 of 12 (r < 1/6), 10 of 20 (r
  // < 1/2).
  //   r in [0, 0.16]     {10 vs 8}                      means 10, 8     gap 0.25
  //   r in [0.18, 0.48]  {10 vs 8, 10 vs 12}            means 10, 10    gap 0
  //   r in [0.5, 0.98]   {10 vs 8, 10 vs 12, 10 vs 20}  means 10, 13.3  gap 0.25
  const std::vector<PreferencePair> pairs = {pair_of(10, 8), pair_of(10, 12), pair_of(10, 20)};
  EXPECT_DOUBLE_EQ(length_threshold(pairs), 0.18);
}

TEST(LengthControl, IsAppliedAfterTheDrawAndReported) {
  std::vector<ScoredPrompt> prompts;
  const std::vector<std::pair<int, int>> lengths = {{10, 8}, {10, 12}, {10, 20}};
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    prompts.push_back({std::to_string(i),
                       static_cast<std::int64_t>(i),
                       "",
                       {{words(lengths[i].first), 0, 2, 0}, {words(lengths[i].second), 1, 2, 2}}});
  }
  PairReport report;
  const auto pairs = build_pairs(prompts, PairConfig{}, 0, report);
  EXPECT_EQ(pairs.size(), 2u);
  EXPECT_EQ(report.dropped_pairs.at("length control"), 1);
  EXPECT_DOUBLE_EQ(report.length_threshold, 0.18);
  EXPECT_DOUBLE_EQ(report.mean_words_chosen, 10);
  EXPECT_DOUBLE_EQ(report.mean_words_rejected, 10);
  EXPECT_EQ(report.prompts_with_pairs, 2);
  EXPECT_EQ(report.to_json().at("pairs"), 2);
}

TEST(Pairs, OfNothingAreNone) {
  PairReport report;
  EXPECT_TRUE(build_pairs({}, PairConfig{}, 0, report).empty());
  EXPECT_EQ(report.length_threshold, 1.0);
}

TEST(Words, AreSeparatedByWhiteSpace) {
  EXPECT_EQ(count_words(""), 0);
  EXPECT_EQ(count_words("  a\tb\n c. d "), 4);
}

}  // namespace
}  // namespace pocketvlm
