#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/preprocess/image.h"

namespace pocketvlm {

/// A sign: a coloured board with a word in Noto Sans. Thread-safe.
class SignPainter {
 public:
  SignPainter();
  ~SignPainter();

  struct Size {
    int width, height;
  };
  /// Size of the board for a word at a font size. Throws Error naming font and Debian package when
  /// the font of the word's script is missing.
  Size measure(const std::string& text, int font_pixels) const;
  /// Draws the board with its corner at (x, y); the seed picks the colours.
  void draw(const std::string& text, int font_pixels, int x, int y, std::uint64_t seed, Image& image) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Words that signs of a language carry, beside numbers. Empty: numbers alone (languages whose script needs
/// shaping, or for which there is no list).
const std::vector<std::string>& sign_words(const std::string& language);

/// A number in the digits of a language.
std::string sign_number(const std::string& language, int number);

}  // namespace pocketvlm
