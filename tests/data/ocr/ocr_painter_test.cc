#include "data/ocr/ocr_painter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "base/files.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::TestFolder;

/// Distance of a point to the outside of a clockwise quad: negative inside.
double outside(const std::array<Point, 4>& quad, double x, double y) {
  double most = -1e30;
  for (std::size_t i = 0; i < 4; ++i) {
    const Point &a = quad[i], &b = quad[(i + 1) % 4];
    const double dx = b[0] - a[0], dy = b[1] - a[1];
    most = std::max(most, ((x - a[0]) * dy - (y - a[1]) * dx) / std::hypot(dx, dy));
  }
  return most;
}

/// How far the ink comes to side i of the quad.
double gap_to_side(const std::array<Point, 4>& quad, std::size_t i, const std::vector<Point>& ink) {
  const Point &a = quad[i], &b = quad[(i + 1) % 4];
  const double dx = b[0] - a[0], dy = b[1] - a[1];
  double least = 1e30;
  for (const Point& point : ink) least = std::min(least, std::abs((point[0] - a[0]) * dy - (point[1] - a[1]) * dx) / std::hypot(dx, dy));
  return least;
}

/// Sharp text on a photograph of one colour, so that ink is what differs from it.
OcrConfig sharp_on_grey(const TestFolder& folder) {
  Image grey(64, 64);
  std::fill(grey.rgb.begin(), grey.rgb.end(), std::uint8_t{120});
  folder.write("photos/grey.png", encode_png(grey));
  OcrConfig config;
  config.photo_folder = folder.path("photos");
  config.board_probability = 0;
  config.max_blur = 0;
  config.max_noise = 0;
  return config;
}

TEST(OcrPainter, QuadsHoldTheInkOfTheirLinesAndNoMore) {
  const TestFolder folder;
  OcrConfig config = sharp_on_grey(folder);
  config.max_lines = 3;
  const OcrPainter painter(config, 5);
  int several = 0;
  for (std::int64_t index = 0; index < 40; ++index) {
    const OcrPicture picture = painter.draw(index);
    several += picture.lines.size() > 1 ? 1 : 0;
    std::vector<std::vector<Point>> ink(picture.lines.size());
    for (int y = 0; y < picture.image.height; ++y) {
      for (int x = 0; x < picture.image.width; ++x) {
        const std::uint8_t* pixel = picture.image.at(x, y);
        if (pixel[0] == 120 && pixel[1] == 120 && pixel[2] == 120) continue;
        const Point middle = {x + 0.5, y + 0.5};
        std::size_t nearest = 0;
        for (std::size_t i = 1; i < picture.lines.size(); ++i) {
          if (outside(picture.lines[i].quad, middle[0], middle[1]) < outside(picture.lines[nearest].quad, middle[0], middle[1])) nearest = i;
        }
        EXPECT_LT(outside(picture.lines[nearest].quad, middle[0], middle[1]), 1.5) << index << ": " << x << ", " << y;
        ink[nearest].push_back(middle);
      }
    }
    for (std::size_t i = 0; i < picture.lines.size(); ++i) {
      ASSERT_FALSE(ink[i].empty());
      for (std::size_t side = 0; side < 4; ++side) {
        EXPECT_LT(gap_to_side(picture.lines[i].quad, side, ink[i]), 3.0) << index << ", line " << i << ", side " << side;
      }
      for (const Point& corner : picture.lines[i].quad) {
        EXPECT_GE(corner[0], 0);
        EXPECT_GE(corner[1], 0);
        EXPECT_LE(corner[0], picture.image.width);
        EXPECT_LE(corner[1], picture.image.height);
      }
    }
  }
  EXPECT_GT(several, 10);
}

TEST(OcrPainter, PicturesDependOnSeedAndPlaceAlone) {
  const OcrPainter painter({}, 1), again({}, 1), other({}, 2);
  std::vector<OcrPicture> parallel(12);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < parallel.size(); i += 3) parallel[i] = painter.draw(static_cast<std::int64_t>(i));
      });
    }
  }
  int differing = 0;
  for (std::size_t i = 0; i < parallel.size(); ++i) {
    const OcrPicture picture = again.draw(static_cast<std::int64_t>(i));
    EXPECT_EQ(picture.image.rgb, parallel[i].image.rgb);
    EXPECT_EQ(picture.lines.front().text, parallel[i].lines.front().text);
    differing += other.draw(static_cast<std::int64_t>(i)).image.rgb != picture.image.rgb ? 1 : 0;
  }
  EXPECT_EQ(differing, 12);
}

TEST(OcrPainter, LongLinesFitInEveryPicture) {
  const TestFolder folder;
  OcrConfig config;
  config.text = folder.write("text.txt", std::string(300, 'W') + "\n");
  config.max_letters = 100;
  config.min_side = config.max_side = 224;
  const OcrPainter painter(config, 1);
  for (std::int64_t index = 0; index < 3; ++index) {
    const OcrPicture picture = painter.draw(index);
    EXPECT_GT(picture.image.width, 224);
    ASSERT_EQ(picture.lines.size(), 1U);
    EXPECT_EQ(picture.lines[0].text, std::string(100, 'W'));
    EXPECT_EQ(picture.lines[0].font_pixels, config.min_font_pixels);
  }
}

TEST(OcrPainter, ADamagedPhotographIsAnError) {
  const TestFolder folder;
  OcrConfig config;
  folder.write("photos/broken.png", "no picture");
  config.photo_folder = folder.path("photos");
  EXPECT_NE(error_of([&] { OcrPainter(config, 1).draw(0); }).find("broken.png"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
