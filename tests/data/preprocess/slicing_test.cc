#include "data/preprocess/slicing.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "image_golden.h"

namespace pocketvlm {
namespace {

PixelSize size_of(const Json& pair) { return {pair[0].get<int>(), pair[1].get<int>()}; }

TEST(Slicing, EqualsTheReferenceInAllGoldenCases) {
  const Json golden = read_json(kPreprocessData + "minicpmv_slicing_golden.json");
  int cases = 0;
  for (const Json& item : golden["cases"]) {
    SCOPED_TRACE(item.dump());
    const int patch = item["patch_size"];
    const SlicePlan plan = plan_slices(
        item["width"], item["height"], item["max_slice_nums"], item["scale_resolution"], patch);
    EXPECT_EQ(plan.overview, size_of(item["source_resize"]));
    EXPECT_EQ(plan.num_slices(), item["num_images"].get<int>());
    // Patch counts are written rows first.
    EXPECT_EQ((PixelSize{plan.overview.height / patch, plan.overview.width / patch}),
              size_of(item["source_tgt_hw"]));
    ASSERT_EQ(plan.grid.has_value(), !item["grid"].is_null());
    if (plan.grid) {
      EXPECT_EQ((PixelSize{plan.grid->columns, plan.grid->rows}), size_of(item["grid"]));
      EXPECT_EQ(plan.refine, size_of(item["refine_size"]));
      EXPECT_EQ(plan.tile(), size_of(item["slice_size"]));
      EXPECT_EQ((PixelSize{plan.tile().height / patch, plan.tile().width / patch}),
                size_of(item["slice_tgt_hw"]));
    } else {
      EXPECT_EQ(plan.refine, PixelSize{});
      EXPECT_EQ(plan.tile(), PixelSize{});
    }
    ++cases;
  }
  EXPECT_EQ(cases, 122);
}

TEST(Slicing, TilesAndOverviewAreWholePatchesForEveryShape) {
  for (int width = 1; width < 5000; width = width * 3 / 2 + 1) {
    for (int height = 1; height < 5000; height = height * 3 / 2 + 1) {
      for (const int max_slices : {1, 2, 9}) {
        const SlicePlan plan = plan_slices(width, height, max_slices, 448, 14);
        EXPECT_EQ(plan.overview.width % 14 + plan.overview.height % 14, 0);
        EXPECT_GT(plan.overview.width * plan.overview.height, 0);
        EXPECT_LE(plan.num_slices(), max_slices + 1);
        if (!plan.grid) continue;
        EXPECT_EQ(plan.tile().width * plan.grid->columns, plan.refine.width);
        EXPECT_EQ(plan.tile().height * plan.grid->rows, plan.refine.height);
        EXPECT_EQ(plan.tile().width % 14 + plan.tile().height % 14, 0);
      }
    }
  }
}

TEST(Slicing, SurvivesTheMostElongatedImages) {
  EXPECT_EQ(plan_slices(100'000'000, 1, 9, 448, 14).num_slices(), 10);
  EXPECT_EQ(plan_slices(1, 100'000'000, 9, 448, 14).num_slices(), 10);
}

TEST(Slicing, RefusesEmptyImagesAndSenselessLimits) {
  EXPECT_THROW(plan_slices(0, 5, 9, 448, 14), Error);
  EXPECT_THROW(plan_slices(5, -1, 9, 448, 14), Error);
  EXPECT_THROW(plan_slices(5, 5, 0, 448, 14), Error);
}

}  // namespace
}  // namespace pocketvlm
