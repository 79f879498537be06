#include "data/scenes/sprite_library.h"

#include "scene_testing.h"

namespace pocketvlm {
namespace {

TEST(SpriteLibrary, ShrinkingAveragesAreas) {
  Sprite sprite{4, 2, {}};
  for (int i = 0; i < 8; ++i) {
    for (int c = 0; c < 4; ++c) sprite.rgba.push_back(static_cast<std::uint8_t>(c == 3 ? 255 : 10 * i));
  }
  const Sprite half = resize_sprite(sprite, 2, 1);
  EXPECT_EQ(half.rgba[0], 25);  // mean of 0, 10, 40, 50
  EXPECT_EQ(half.rgba[4], 45);  // mean of 20, 30, 60, 70
  EXPECT_EQ(half.rgba[3], 255);
  const Sprite third = resize_sprite(sprite, 3, 2);  // 4/3 of a pixel each
  EXPECT_EQ(third.rgba[0], 3);    // (0 + 10 / 3) / (4 / 3) = 2.5, rounded
  const Sprite large = resize_sprite(sprite, 8, 4);
  EXPECT_EQ(large.rgba[0], 0);
  EXPECT_EQ(large.rgba[3], 255);
}

TEST(SpriteLibrary, CropsToWhatIsVisible) {
  Sprite sprite{5, 4, std::vector<std::uint8_t>(5 * 4 * 4)};
  sprite.rgba[(2 * 5 + 1) * 4 + 3] = 200;
  sprite.rgba[(2 * 5 + 3) * 4 + 3] = 90;
  sprite.rgba[(0 * 5 + 0) * 4 + 3] = 3;  // a trace
  const Sprite cropped = crop_to_visible(sprite);
  EXPECT_EQ(cropped.width, 3);
  EXPECT_EQ(cropped.height, 1);
  EXPECT_EQ(cropped.alpha(0, 0), 200);
  EXPECT_EQ(cropped.alpha(2, 0), 90);
}

TEST(SpriteLibrary, BlendsByAlphaAndCutsAtTheBorder) {
  Image image(2, 1);
  std::fill(image.rgb.begin(), image.rgb.end(), 100);
  const Sprite sprite{2, 1, {100, 0, 0, 128, 9, 9, 9, 255}};
  blend_sprite(sprite, 1, 0, image);  // its second pixel is outside
  EXPECT_EQ(image.at(0, 0)[0], 100);
  EXPECT_EQ(image.at(1, 0)[0], 150);  // 100 + 100 * 127 / 255
  EXPECT_EQ(image.at(1, 0)[1], 50);
  blend_sprite(sprite, 5, 5, image);
  EXPECT_EQ(image.at(1, 0)[1], 50);
}

TEST(SpriteLibrary, EmojiAreColouredAndCropped) {
  const auto sprites = load_emoji({U'🍎', U'🐱'});
  for (const Sprite& sprite : sprites) {
    EXPECT_GT(sprite.width, 60);
    EXPECT_LE(sprite.width, 136);
    bool left = false;
    for (int y = 0; y < sprite.height; ++y) left = left || sprite.alpha(0, y) >= 8;
    EXPECT_TRUE(left);
  }
  const Sprite& apple = sprites[0];
  const std::size_t middle = (static_cast<std::size_t>(apple.height * 6 / 10) * apple.width + apple.width / 2) * 4;
  EXPECT_GT(apple.rgba[middle], 180);     // red
  EXPECT_LT(apple.rgba[middle + 2], 90);  // not blue
  EXPECT_NE(error_of([] { load_emoji({U'A', U'\uE000'}); }).find("fonts-noto-color-emoji"), std::string::npos);
}

TEST(SpriteLibrary, AMissingStampNamesFileAndPackage) {
  const std::string error = error_of([] { load_stamp("animals/unicorn.png", 100); });
  EXPECT_NE(error.find("animals/unicorn.png"), std::string::npos);
  EXPECT_NE(error.find("tuxpaint-stamps-default"), std::string::npos);
  const Sprite tiger = load_stamp("animals/mammals/cats/tiger.png", 100);
  EXPECT_EQ(std::max(tiger.width, tiger.height), 100);
}

}  // namespace
}  // namespace pocketvlm
