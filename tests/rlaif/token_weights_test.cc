#include "rlaif/token_weights.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "rlaif/shared_pack.h"

namespace pocketvlm {
namespace {

using Ids = std::vector<std::int32_t>;

// difflib's own answers (tests/golden/make_preference.py).
TEST(ChangedTokens, AreThoseOfDifflib) {
  const Json golden = read_json(std::string(TEST_DATA) + "/rlaif/golden/preference.json");
  std::int64_t changes = 0;
  for (const Json& expected : golden.at("alignments")) {
    const ChangedTokens changed =
        changed_tokens(expected.at("a").get<Ids>(), expected.at("b").get<Ids>());
    const auto as_numbers = [](const std::vector<bool>& marks) {
      return std::vector<int>(marks.begin(), marks.end());
    };
    EXPECT_EQ(as_numbers(changed.a), expected.at("changed_a").get<std::vector<int>>()) << expected;
    EXPECT_EQ(as_numbers(changed.b), expected.at("changed_b").get<std::vector<int>>()) << expected;
    for (const bool mark : changed.a) changes += mark ? 1 : 0;
  }
  EXPECT_GT(changes, 50);
}

TEST(TokenWeights, AreOneUnlessAskedFor) {
  const TokenWeights weights = token_weights(Ids{1, 2, 3}, Ids{4}, PreferenceConfig{});
  EXPECT_EQ(weights.chosen, std::vector<float>(3, 1.0F));
  EXPECT_EQ(weights.rejected, std::vector<float>(1, 1.0F));
}

TEST(TokenWeights, MultiplyChangesAndTails) {
  PreferenceConfig config;
  config.changed_token_weight = 5;
  config.length_tail_weight = 0.5;
  // 1 2 3 is common, 9 9 stands against 8, and the longer answer's last token is beyond the shorter.
  const TokenWeights weights = token_weights(Ids{1, 2, 3, 9, 9}, Ids{1, 2, 3, 8}, config);
  EXPECT_EQ(weights.chosen, (std::vector<float>{1, 1, 1, 5, 2.5}));
  EXPECT_EQ(weights.rejected, (std::vector<float>{1, 1, 1, 5}));
}

EncodedSample sequence(const Ids& ids, std::vector<std::uint8_t> is_target) {
  EncodedSample sample;
  sample.chat.ids = ids;
  sample.chat.is_target = std::move(is_target);
  return sample;
}

TEST(Branches, HoldTheirCommonBeginningOnce) {
  BranchedBatch branched;
  append_branches({sequence({7, 8, 9, 1, 2}, {0, 0, 0, 1, 1}), sequence({7, 8, 9, 3}, {0, 0, 0, 1})},
                  branched);
  append_branches({sequence({5, 6}, {0, 0}), sequence({5, 4}, {0, 0})}, branched);
  EXPECT_EQ(branched.batch.input_ids, (std::vector<std::int64_t>{7, 8, 9, 1, 2, 9, 3, 5, 6, 4}));
  EXPECT_EQ(branched.batch.position_ids, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 2, 3, 0, 1, 1}));
  EXPECT_EQ(branched.batch.labels,
            (std::vector<std::int64_t>{-100, -100, 1, 2, -100, 3, -100, -100, -100, -100}));
  EXPECT_EQ(branched.parents, (std::vector<std::int64_t>{-1, 0, 0, -1, 3, 3}));
  const WholeSequences whole = whole_sequences(branched);
  EXPECT_EQ(whole.lengths, (std::vector<std::int64_t>{5, 4, 2, 2}));
  EXPECT_EQ(whole.expand, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8, 7, 9}));
  EXPECT_EQ(whole.unread, (std::vector<std::int64_t>{0, 2, 0, 1})) << "the second branch's beginning was seen before";
  ASSERT_EQ(whole.collapse.size(), 10u);
  for (std::size_t token = 0; token < whole.collapse.size(); ++token) {
    EXPECT_EQ(whole.expand[static_cast<std::size_t>(whole.collapse[token])],
              static_cast<std::int64_t>(token));
  }
}

TEST(Branches, CannotShareWhatDiffersAtOnce) {
  BranchedBatch branched;
  EXPECT_THROW(append_branches({sequence({1, 2}, {0, 0}), sequence({3, 2}, {0, 0})}, branched), Error);
}

}  // namespace
}  // namespace pocketvlm
