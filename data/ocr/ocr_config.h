#pragma once

#include <cstdint>
#include <string>

#include "base/config.h"

namespace pocketvlm {

/// What `pocketvlm data ocr` draws: lines of real text on pictures, as a camera might see them.
struct OcrConfig {
  std::string text;
  int64_t max_letters = 40;
  int64_t max_lines = 4;
  std::string fonts = "/usr/share/fonts";
  std::string photo_folder;
  int64_t min_side = 224;
  int64_t max_side = 672;
  int64_t min_font_pixels = 14;
  int64_t max_font_pixels = 64;
  double max_rotation = 12.0;
  double perspective = 0.2;
  double board_probability = 0.4;
  double max_blur = 1.2;
  double max_noise = 12.0;
  int64_t min_jpeg_quality = 40;
  int64_t max_jpeg_quality = 95;

  void visit_fields(auto&& field) {
    field("text", text, "UTF-8 file whose lines are drawn; empty: the words of the scenes' signs in ten languages");
    field("max_letters", max_letters, "of a drawn line; longer lines of the file are broken, at spaces where there are any", in_range(1, 1000));
    field("max_lines", max_lines, "of a picture; they follow each other in the file", in_range(1, 64));
    field("fonts", fonts, "folder of TrueType and OpenType fonts, searched through; each line takes one that has all its letters");
    field("photo_folder", photo_folder, "photographs as backgrounds; empty: textures");
    field("min_side", min_side, "pixels of a picture's sides, at least", in_range(32, 8192));
    field("max_side", max_side, "at most, unless a long line needs more", in_range(32, 8192));
    field("min_font_pixels", min_font_pixels, "size of letters", in_range(6, 1000));
    field("max_font_pixels", max_font_pixels, "size of letters, where the lines fit", in_range(6, 1000));
    field("max_rotation", max_rotation, "degrees to either side", in_range(0, 45));
    field("perspective", perspective, "shift of each corner of the text, as part of its height, at most", in_range(0, 0.35));
    field("board_probability", board_probability, "chance that the text stands on a board of one colour", in_range(0, 1));
    field("max_blur", max_blur, "standard deviation of the blur in pixels, at most", in_range(0, 20));
    field("max_noise", max_noise, "standard deviation of the noise in levels of 255, at most", in_range(0, 100));
    field("min_jpeg_quality", min_jpeg_quality, "of the JPEG files", in_range(1, 100));
    field("max_jpeg_quality", max_jpeg_quality, "of the JPEG files", in_range(1, 100));
  }
  void validate(const std::string& path) const;
};

}  // namespace pocketvlm
