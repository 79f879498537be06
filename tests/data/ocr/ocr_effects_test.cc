#include "data/ocr/ocr_effects.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

TEST(OcrEffects, AProjectionTakesCornersToCorners) {
  const std::array<Point, 4> corners = {Point{10, 20}, {110, 30}, {100, 70}, {15, 60}};
  const Projection projection = projection_to(80, 30, corners);
  const std::array<Point, 4> box = {Point{0, 0}, {80, 0}, {80, 30}, {0, 30}};
  for (std::size_t i = 0; i < 4; ++i) {
    const Point seen = project(projection, box[i]);
    EXPECT_NEAR(seen[0], corners[i][0], 1e-6);
    EXPECT_NEAR(seen[1], corners[i][1], 1e-6);
  }
  // Straight lines stay straight: the middle of a diagonal lies on the other one.
  const Point middle = project(projection, {40, 15});
  const auto side = [&](const Point& a, const Point& b) {
    return (b[0] - a[0]) * (middle[1] - a[1]) - (b[1] - a[1]) * (middle[0] - a[0]);
  };
  EXPECT_NEAR(side(corners[0], corners[2]), 0, 1e-3);
  EXPECT_NEAR(side(corners[1], corners[3]), 0, 1e-3);
}

TEST(OcrEffects, CoverageAtItsPlaceIsCopiedExactly) {
  Image image(20, 10);
  const std::vector<std::uint8_t> coverage = {255, 0, 128, 255, 255, 0};
  const Projection projection = projection_to(3, 2, {Point{5, 4}, {8, 4}, {8, 6}, {5, 6}});
  lay_over(coverage, 3, 2, projection, {200, 100, 50}, image);
  int inked = 0;
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) inked += image.rgb[i] != 0 ? 1 : 0;
  EXPECT_EQ(inked, 4);
  EXPECT_EQ(image.at(5, 4)[0], 200);
  EXPECT_EQ(image.at(5, 4)[2], 50);
  EXPECT_EQ(image.at(7, 4)[0], 100);
  EXPECT_EQ(image.at(6, 5)[1], 100);
}

TEST(OcrEffects, NoiseHasTheDeviationAskedFor) {
  for (const double deviation : {2.0, 12.0}) {
    Image image(300, 300);
    std::fill(image.rgb.begin(), image.rgb.end(), std::uint8_t{128});
    Random random({7});
    add_noise(deviation, random, image);
    double sum = 0, squares = 0;
    for (const std::uint8_t level : image.rgb) {
      sum += level - 128.0;
      squares += (level - 128.0) * (level - 128.0);
    }
    const auto count = static_cast<double>(image.rgb.size());
    EXPECT_NEAR(sum / count, 0, 0.1);
    EXPECT_NEAR(std::sqrt(squares / count), deviation, 0.05 * deviation + 0.05);
  }
}

TEST(OcrEffects, BlurSpreadsAPoint) {
  Image image(41, 41);
  for (std::size_t c = 0; c < 3; ++c) image.at(20, 20)[c] = 255;
  Image sharp = image;
  blur(0, sharp);
  EXPECT_EQ(sharp.rgb, image.rgb);
  blur(2, image);
  // The height of a two-dimensional normal curve of deviation 2.
  EXPECT_NEAR(image.at(20, 20)[0], 255 / (2 * M_PI * 4), 1.5);
  EXPECT_EQ(image.at(22, 20)[0], image.at(20, 22)[0]);
}

TEST(OcrEffects, TextStandsOutFromWhatIsBelow) {
  Random random({3});
  for (const double below : {0.0, 60.0, 128.0, 200.0, 255.0}) {
    for (int i = 0; i < 50; ++i) EXPECT_GE(std::abs(brightness_of(contrasting_colour(below, random)) - below), 90);
  }
  Image image(10, 10);
  for (int y = 0; y < 10; ++y) {
    for (int x = 5; x < 10; ++x) image.at(x, y)[0] = image.at(x, y)[1] = image.at(x, y)[2] = 200;
  }
  EXPECT_NEAR(brightness_below(image, {Point{5, 0}, {10, 0}, {10, 10}, {5, 10}}), 200, 1e-9);
  EXPECT_NEAR(brightness_below(image, {Point{0, 0}, {10, 0}, {10, 10}, {0, 10}}), 100, 1e-9);
}

}  // namespace
}  // namespace pocketvlm
