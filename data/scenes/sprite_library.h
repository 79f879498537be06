#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/preprocess/image.h"
#include "data/scenes/object_classes.h"

namespace pocketvlm {

/// A cut-out picture: 8-bit RGBA, row-major, colours premultiplied by alpha.
struct Sprite {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgba;

  std::uint8_t alpha(int x, int y) const {
    return rgba[(static_cast<std::size_t>(y) * width + x) * 4 + 3];
  }
};

/// Shrinks by area averaging, enlarges linearly; premultiplied colours make both exact at the edges.
Sprite resize_sprite(const Sprite& sprite, int width, int height);

/// The smallest part of the sprite that holds all pixels with alpha of 8 or more.
Sprite crop_to_visible(const Sprite& sprite);

/// Draws the sprite over the picture with its corner at (x, y); parts outside are cut off.
void blend_sprite(const Sprite& sprite, int x, int y, Image& image);

/// Colour bitmaps of the given code points from Noto Color Emoji, cropped to what is visible.
/// Throws Error naming the font and its Debian package when it cannot be read.
std::vector<Sprite> load_emoji(const std::vector<char32_t>& code_points);

/// One stamp (PNG with alpha), cropped, its longer side reduced to at most `max_side`.
/// `file` is relative to the stamps folder. Throws Error naming file and Debian package.
Sprite load_stamp(const std::string& file, int max_side);

/// All sprites of the classes in use, at any size; sizes once made are kept (up to a bound). Libraries of the same
/// classes share them: a recipe opens many streams of one world. Thread-safe.
class SpriteLibrary {
 public:
  /// `max_side`: the longest side that will be drawn, in pixels.
  SpriteLibrary(const std::vector<ObjectClass>& classes, int max_side);
  ~SpriteLibrary();

  int num_variants(int class_index) const;
  /// Width divided by height of the visible part.
  double aspect(int class_index, int variant) const;
  std::shared_ptr<const Sprite> get(int class_index, int variant, int width, int height) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pocketvlm
