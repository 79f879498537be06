#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/ocr/font_collection.h"
#include "data/ocr/ocr_config.h"
#include "data/ocr/text_lines.h"
#include "data/preprocess/image.h"

namespace pocketvlm {

/// A place in a picture: pixel (x, y) covers [x, x + 1) x [y, y + 1).
using Point = std::array<double, 2>;

/// One line as it stands in a picture.
struct PaintedLine {
  std::string text;
  std::array<Point, 4> quad;  // of its ink: top left, top right, bottom right, bottom left of the text
  std::string font;
  int font_pixels = 0;
};

struct OcrPicture {
  Image image;
  std::vector<PaintedLine> lines;  // in reading order
  int jpeg_quality = 0;
};

/// Draws picture `index` of a stream: a function of (config, text, fonts, seed, index) alone. Thread-safe.
class OcrPainter {
 public:
  /// Reads the text and looks through the fonts. Throws Error when either holds nothing to draw.
  OcrPainter(OcrConfig config, std::uint64_t seed);
  ~OcrPainter();

  OcrPicture draw(std::int64_t index) const;

  const OcrConfig& config() const;
  const TextLines& text() const;
  const FontCollection& fonts() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pocketvlm
