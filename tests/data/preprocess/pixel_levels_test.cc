#include "data/preprocess/pixel_levels.h"

#include <gtest/gtest.h>


#include "base/random.h"

namespace pocketvlm {
namespace {

constexpr float kUntouched = -77.0F;

/// A block in an image that is `beside` pixels wider, between floats that must stay.
std::vector<float> normalised(const PixelLevels& levels, int width, int height, int beside, std::uint64_t seed) {
  std::vector<std::uint8_t> image(3 * static_cast<std::size_t>(width + beside) * height);
  Random random({seed});
  for (std::uint8_t& byte : image) byte = static_cast<std::uint8_t>(random.below(256));
  const std::size_t size = 3 * static_cast<std::size_t>(width) * height;
  std::vector<float> out(size + 32, kUntouched);
  levels.normalise({image.data(), 3 * (width + beside), width, height}, out.data() + 16);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], kUntouched);
    EXPECT_EQ(out[out.size() - 1 - i], kUntouched);
  }
  return {out.begin() + 16, out.end() - 16};
}

const std::vector<std::tuple<std::vector<double>, std::vector<double>>> kSettings = {
    {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}},
    {{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}},
    {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
    {{0, 1, -3.7}, {1, 255, 1e-3}},
    {{0.5, 0.5, 0.5}, {1e-38, 3e38, 1e-41}},  // remainders that no fused multiply-add can hold: the table is taken
};

TEST(PixelLevels, EveryLoopGivesTheBitsOfDivisions) {
  for (const auto& [mean, std] : kSettings) {
    for (const PixelLoop loop : {PixelLoop::kTable, PixelLoop::kAvx2, PixelLoop::kAvx512}) {
      std::vector<std::uint8_t> greys;
      for (int value = 0; value < 256; ++value) greys.insert(greys.end(), 3, static_cast<std::uint8_t>(value));
      std::vector<float> out(greys.size());
      PixelLevels(mean, std, loop).normalise({greys.data(), 0, 256, 1}, out.data());
      for (std::size_t c = 0; c < 3; ++c) {
        for (std::size_t value = 0; value < 256; ++value) {
          const float scaled = static_cast<float>(value) / 255.0F;
          const float expected = (scaled - static_cast<float>(mean[c])) / static_cast<float>(std[c]);
          ASSERT_EQ(out[256 * c + value], expected) << "channel " << c << ", byte " << value << ", std " << std[c];
        }
      }
    }
  }
}

TEST(PixelLevels, EveryLoopTakesBlocksOfAnySize) {
  const auto& [mean, std] = kSettings[1];
  const PixelLevels table(mean, std, PixelLoop::kTable);
  for (const PixelLoop loop : {PixelLoop::kAvx2, PixelLoop::kAvx512}) {
    const PixelLevels levels(mean, std, loop);
    for (int width = 1; width <= 70; ++width) {
      const int height = 1 + width % 5, beside = width % 4;
      const auto seed = static_cast<std::uint64_t>(width);
      EXPECT_EQ(normalised(levels, width, height, beside, seed), normalised(table, width, height, beside, seed)) << width;
    }
  }
}

}  // namespace
}  // namespace pocketvlm
