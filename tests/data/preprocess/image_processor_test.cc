#include "data/preprocess/image_processor.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/preprocess/image_patches.h"
#include "image_golden.h"

namespace pocketvlm {
namespace {

ImageConfig clip_config(const std::string& mode, int side) {
  ImageConfig config;
  config.mode = mode;
  config.image_size = side;
  config.mean = {0.48145466, 0.4578275, 0.40821073};
  config.std = {0.26862954, 0.26130258, 0.27577711};
  return config;
}

TEST(ImageProcessor, SquareModesEqualTheReferenceBitForBit) {
  for (const Json& item : image_golden()["square"]) {
    SCOPED_TRACE(item.dump());
    const Image image = pattern(item["width"], item["height"], 3);
    const auto result = process_image(image, clip_config(item["mode"], item["side"]));
    ASSERT_EQ(result.slices.size(), 1u);
    EXPECT_FALSE(result.plan.grid.has_value());
    EXPECT_EQ(result.slices[0].width, item["side"].get<int>());
    EXPECT_EQ(checksum(result.slices[0].pixels), item["crc32"].get<std::string>());
  }
}

TEST(ImageProcessor, SlicesEqualTheReferenceBitForBit) {
  int slices = 0;
  for (const Json& item : image_golden()["slices"]) {
    SCOPED_TRACE(item.dump());
    ImageConfig config;
    config.max_slices = item["max_slices"];
    config.scale_resolution = item["scale_resolution"];
    config.patch_size = item["patch_size"];
    const Image image = pattern(item["width"], item["height"], 5);
    const ProcessedImage result = process_image(image, config);
    ASSERT_EQ(result.slices.size(), item["crc32"].size());
    for (std::size_t i = 0; i < result.slices.size(); ++i, ++slices) {
      EXPECT_EQ(checksum(result.slices[i].pixels), item["crc32"][i].get<std::string>()) << i;
    }
  }
  EXPECT_GE(slices, 10);
}

TEST(ImageProcessor, ChecksumsNoticeOneChangedPixel) {
  const Json& item = image_golden()["square"][0];
  Image image = pattern(item["width"], item["height"], 3);
  image.at(image.width / 2, image.height / 2)[0] ^= 0x80;
  const auto result = process_image(image, clip_config(item["mode"], item["side"]));
  EXPECT_NE(checksum(result.slices[0].pixels), item["crc32"].get<std::string>());
}

TEST(ImageProcessor, PatchesAreChannelThenRowThenColumn) {
  ImageSlice slice{4, 2, {}};
  for (int i = 0; i < 24; ++i) slice.pixels.push_back(static_cast<float>(i));
  PatchValues out = {-1};
  append_patches(slice, 2, out);
  const PatchValues expected = {-1, 0, 1, 4, 5,  8,  9,  12, 13, 16, 17, 20, 21,
                                2,  3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23};
  EXPECT_EQ(out, expected);
  EXPECT_THROW(append_patches(slice, 3, out), Error);
}

template <typename Change>
std::string refusal(const Change& change) {
  ImageConfig config;
  change(config);
  try {
    config.validate("model.image");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ImageProcessor, RefusesSettingsThatCannotWorkAndNamesThem) {
  EXPECT_EQ(refusal([](ImageConfig&) {}), "");
  EXPECT_NE(refusal([](ImageConfig& config) { config.mean = {0.5}; }).find("model.image.mean"),
            std::string::npos);
  EXPECT_NE(refusal([](ImageConfig& config) { config.std[1] = 0; }).find("model.image.std"),
            std::string::npos);
  EXPECT_NE(refusal([](ImageConfig& config) {
              config.mode = "squash";
              config.image_size = 100;
            }).find("take 98"),
            std::string::npos);
  EXPECT_NE(refusal([](ImageConfig& config) {
              config.scale_resolution = 10;
            }).find("model.image.scale_resolution"),
            std::string::npos);
}

TEST(ImageProcessor, MakesTheSamePatchesInOnePass) {
  for (const char* mode : {"slices", "squash", "pad_square", "center_crop"}) {
    const ImageConfig config = clip_config(mode, 56);
    for (const auto& [width, height] : {std::pair{448, 448}, {900, 300}, {37, 61}}) {
      const Image image = pattern(width, height, 3);
      const ProcessedImage processed = process_image(image, config);
      PatchValues expected = {1.0F}, patches = {1.0F};  // what is there stays
      for (const ImageSlice& slice : processed.slices) append_patches(slice, 14, expected);
      std::vector<std::array<int, 2>> grids;
      const SlicePlan plan = append_image(image, config, patches, grids);
      EXPECT_EQ(patches, expected) << mode << " " << width << " x " << height;
      ASSERT_EQ(grids.size(), processed.slices.size());
      EXPECT_EQ(grids.back()[1], processed.slices.back().width / 14);
      EXPECT_EQ(plan.grid.has_value(), processed.plan.grid.has_value());

      std::vector<std::array<int, 2>> same_grids;
      const std::size_t before = patches.size();
      append_image(Image::outline(width, height), config, patches, same_grids);
      EXPECT_EQ(same_grids, grids) << mode << " " << width << " x " << height;
      EXPECT_EQ(patches.size(), before);
    }
  }
}

}  // namespace
}  // namespace pocketvlm
