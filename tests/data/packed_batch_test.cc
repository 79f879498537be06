#include "data/packed_batch.h"

#include <gtest/gtest.h>

#include "data/best_fit.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

EncodedSample text_of(std::vector<std::int32_t> ids,
                      std::vector<std::uint8_t> is_target,
                      float weight = 1.0F) {
  EncodedSample sample;
  sample.id = "text";
  sample.chat.ids = std::move(ids);
  sample.chat.is_target = std::move(is_target);
  sample.weight = weight;
  return sample;
}

/// Five tokens, two of them visual, one slice of two patches.
EncodedSample picture_of(float value) {
  EncodedSample sample = text_of({7, 0, 0, 8, 9}, {0, 0, 0, 1, 1});
  sample.id = "picture";
  sample.chat.visual_positions = {1, 2};
  sample.chat.grids = {{1, 2}};
  sample.chat.patches = {value, value};
  return sample;
}

using Ints = std::vector<std::int64_t>;

TEST(AppendSample, LabelsAreTheFollowingIdsAndNeverCrossASegment) {
  PackedBatch batch;
  append_sample(text_of({10, 11, 12, 13}, {0, 0, 1, 1}, 0.5F), batch);
  append_sample(text_of({20, 21}, {1, 1}), batch);
  EXPECT_EQ(batch.input_ids, (Ints{10, 11, 12, 13, 20, 21}));
  // Token 20 is a target, but the token before it belongs to another sample: nothing predicts it.
  EXPECT_EQ(batch.labels, (Ints{-100, 12, 13, -100, 21, -100}));
  EXPECT_EQ(batch.loss_weights, (std::vector<float>{0, 0.5F, 0.5F, 0, 1, 0}));
  EXPECT_EQ(batch.position_ids, (Ints{0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(batch.segment_lengths, (Ints{4, 2}));
  EXPECT_EQ(batch.segment_slices, (Ints{0, 0}));
  EXPECT_EQ(batch.num_tokens(), 6);
  EXPECT_EQ(batch.num_targets(), 3);
}

TEST(AppendSample, VisualPlacesMoveWithTheirSegmentAndRowsCountOn) {
  PackedBatch batch;
  append_sample(picture_of(1), batch);
  append_sample(text_of({5, 6}, {0, 1}), batch);
  append_sample(picture_of(2), batch);
  EXPECT_EQ(batch.visual_positions, (Ints{1, 2, 8, 9}));
  EXPECT_EQ(batch.visual_rows, (Ints{0, 1, 2, 3}));
  EXPECT_EQ(batch.segment_slices, (Ints{1, 0, 1}));
  EXPECT_EQ(batch.patches, (PatchValues{1, 1, 2, 2}));
  ASSERT_EQ(batch.grids.size(), 2U);
  EXPECT_EQ(batch.grids[1], (std::array<std::int64_t, 2>{1, 2}));
  EXPECT_EQ(batch.sample_ids, (std::vector<std::string>{"picture", "text", "picture"}));
}

TEST(AppendSample, RefusesASampleThatContradictsItself) {
  PackedBatch batch;
  EXPECT_NE(test::error_of([&] {
              append_sample(text_of({1, 2}, {1}), batch);
            }).find("target marks"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] { append_sample(text_of({}, {}), batch); }).find("not none"),
            std::string::npos);
  EncodedSample uneven = picture_of(1);
  uneven.chat.grids = {{1, 1}, {1, 1}, {1, 1}};
  EXPECT_NE(test::error_of([&] { append_sample(uneven, batch); }).find("do not divide"),
            std::string::npos);
  EncodedSample outside = picture_of(1);
  outside.chat.visual_positions = {1, 5};
  EXPECT_NE(test::error_of([&] { append_sample(outside, batch); }).find("outside"),
            std::string::npos);
}

TEST(BestFit, FindsTheFullestChoiceAmongAllSubsets) {
  std::uint32_t state = 1;
  for (int round = 0; round < 200; ++round) {
    std::vector<std::int64_t> lengths;
    for (int i = 0; i < 10; ++i) lengths.push_back(1 + (state = state * 1664525 + 1013904223) % 60);
    const std::int64_t room = 1 + (state >> 8) % 200;
    std::int64_t best = 0;
    for (unsigned subset = 0; subset < 1024; ++subset) {
      std::int64_t sum = 0;
      for (std::size_t i = 0; i < 10; ++i) sum += (subset >> i & 1) != 0 ? lengths[i] : 0;
      if (sum <= room) best = std::max(best, sum);
    }
    std::int64_t sum = 0;
    std::int64_t before = -1;
    for (const std::size_t place : best_fit(lengths, room)) {
      EXPECT_GT(static_cast<std::int64_t>(place), before);
      before = static_cast<std::int64_t>(place);
      sum += lengths[place];
    }
    EXPECT_EQ(sum, best);
  }
}

TEST(BestFit, TakesNothingWhereNothingFits) {
  EXPECT_TRUE(best_fit({5, 6}, 4).empty());
  EXPECT_TRUE(best_fit({}, 4).empty());
  EXPECT_TRUE(best_fit({1}, 0).empty());
}

}  // namespace
}  // namespace pocketvlm
