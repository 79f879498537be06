#include "data/preprocess/resize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/random.h"
#include "data/preprocess/resize_rows.h"
#include "image_golden.h"

namespace pocketvlm {
namespace {

TEST(Resize, EqualsPillowByteForByteOnRandomSizes) {
  int up = 0, down = 0;
  for (const Json& item : image_golden()["resize"]) {
    SCOPED_TRACE(item.dump());
    const Image from = pattern(item[0], item[1], item[2]);
    const Image to = resize_bicubic(from, item[3], item[4]);
    EXPECT_EQ(checksum(to.rgb), item[5].get<std::string>());
    up += to.width > from.width ? 1 : 0;
    down += to.width < from.width ? 1 : 0;
  }
  EXPECT_GE(up, 100);
  EXPECT_GE(down, 100);
}

TEST(Resize, ChecksumsNoticeOneChangedPixel) {
  const Json& item = image_golden()["resize"][1];
  Image from = pattern(item[0], item[1], item[2]);
  from.at(from.width / 2, from.height / 2)[1] ^= 0x40;
  EXPECT_NE(checksum(resize_bicubic(from, item[3], item[4]).rgb), item[5].get<std::string>());
}

TEST(Resize, GivesTheImageItselfAtItsOwnSize) {
  const Image image = pattern(31, 17, 1);
  EXPECT_EQ(resize_bicubic(image, 31, 17).rgb, image.rgb);
}

TEST(Resize, PlainAndFastLoopsGiveTheSameBytes) {
  Random random({20});
  const ResizeRows plain = plain_resize_rows();
  const ResizeRows& fast = resize_rows();
  for (int round = 0; round < 200; ++round) {
    ResizeWeights weights;
    const int width = static_cast<int>(random.between(1, 80));
    const int input = static_cast<int>(random.between(1, 40));
    weights.taps = (input + 1) / 2 * 2;
    for (int x = 0; x < width; ++x) {
      const int first = static_cast<int>(random.below(input));
      const int count = static_cast<int>(random.between(1, input - first));
      weights.span.emplace_back(first, count);
      weights.start.push_back({kWeightHalf, -123'456'789, 123'456'789, 0});
      for (int i = 0; i < weights.taps; ++i) {
        const auto weight = static_cast<std::int32_t>(random.between(-40'000, 90'000));
        weights.fixed.push_back(i < count ? weight : 0);
      }
    }
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(input + 1) * 4 * 20);
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random.below(256));
    std::vector<std::uint8_t> expected(3 * width), got(3 * width);
    plain.horizontal(bytes.data(), weights, expected.data());
    fast.horizontal(bytes.data(), weights, got.data());
    EXPECT_EQ(got, expected);

    const int length = static_cast<int>(random.between(1, 80));
    std::vector<const std::uint8_t*> rows;
    for (int i = 0; i < input; ++i) rows.push_back(&bytes[i]);
    expected.resize(length);
    got.resize(length);
    plain.vertical(rows.data(), weights.of(0), input, length, expected.data());
    fast.vertical(rows.data(), weights.of(0), input, length, got.data());
    EXPECT_EQ(got, expected);
  }
}

TEST(Resize, CropEqualsCuttingTheWholeResizedImage) {
  for (const auto& [width, height] : {std::pair{90, 31}, {31, 90}, {14, 300}, {20, 20}}) {
    const Image image = pattern(width, height, 2);
    const int side = 28;
    const int short_side = std::min(width, height);
    const Image whole =
        resize_bicubic(image, side * width / short_side, side * height / short_side);
    const Image part = resize_short_side_and_crop(image, side);
    ASSERT_EQ(part.width, side);
    ASSERT_EQ(part.height, side);
    for (int y = 0; y < side; ++y) {
      const auto* expected = whole.at((whole.width - side) / 2, (whole.height - side) / 2 + y);
      EXPECT_TRUE(std::equal(expected, expected + 3 * side, part.at(0, y))) << "row " << y;
    }
  }
}

TEST(Resize, PaddingEqualsResizingThePaddedSquare) {
  Random random({21});
  for (int round = 0; round < 60; ++round) {
    const Image image = pattern(static_cast<int>(random.between(1, 60)),
                                static_cast<int>(random.between(1, 60)),
                                static_cast<std::uint32_t>(round));
    const int side = std::max(image.width, image.height);
    const std::array<std::uint8_t, 3> color = {122, 116, 104};
    Image square(side, side);
    for (std::size_t i = 0; i < square.rgb.size(); ++i) square.rgb[i] = color[i % 3];
    for (int y = 0; y < image.height; ++y) {
      std::copy_n(image.at(0, y),
                  3 * image.width,
                  square.at((side - image.width) / 2, (side - image.height) / 2 + y));
    }
    const int to = round % 5 == 0 ? side : static_cast<int>(random.between(1, 90));
    EXPECT_EQ(pad_square_and_resize(image, color, to).rgb, resize_bicubic(square, to, to).rgb);
  }
}

TEST(Resize, VeryLongImagesTakeLittleMemoryAndTime) {
  // As a whole these would be 28 x 28,000,000 and 100,000 x 100,000 pixels.
  const Image part = resize_short_side_and_crop(pattern(1, 1'000'000, 0), 28);
  EXPECT_EQ(part.rgb.size(), 28u * 28u * 3u);
  const Image padded = pad_square_and_resize(pattern(1, 100'000, 0), {1, 2, 3}, 14);
  EXPECT_EQ(padded.at(0, 7)[2], 3);
}

TEST(Resize, RefusesEmptyImagesAndSizes) {
  EXPECT_THROW(resize_bicubic(Image(), 5, 5), Error);
  EXPECT_THROW(resize_bicubic(pattern(4, 4, 0), 0, 5), Error);
  EXPECT_THROW(resize_bicubic(pattern(4, 4, 0), 5, -5), Error);
  EXPECT_THROW(resize_bicubic(pattern(4, 4, 0), 1 << 25, 1), Error);
}

}  // namespace
}  // namespace pocketvlm
