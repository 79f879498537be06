#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/ocr/ocr_config.h"

namespace pocketvlm {

class FontCollection;

/// A piece of text that is drawn as one line.
struct TextLine {
  std::u32string letters;  // in the order in which they are read
  std::int64_t source_line = 0;  // of the file, from 1
};

/// A line of the file that is not drawn.
struct UnusedLine {
  std::int64_t source_line = 0;
  std::string reason;  // "invalid UTF-8", "needs shaping" or "no font"
  std::string detail;
};

struct TextLines {
  std::vector<TextLine> lines;
  std::vector<UnusedLine> unused;
};

/// Whether the letters come out right when each is drawn by itself, from left to right or, for Hebrew
/// without points, from right to left. Arabic, Indic and other scripts whose letters join, stack or move
/// need a shaping engine.
bool draws_letter_by_letter(std::u32string_view letters);

/// The letters from left to right.
std::u32string visual_order(const std::u32string& letters);

std::string utf8_of(std::u32string_view letters);

/// The lines of config.text (or the words of signs) that can be drawn with these fonts, broken to
/// max_letters. Throws Error when the file cannot be read or no line is left.
TextLines read_text_lines(const OcrConfig& config, const FontCollection& fonts);

/// All lines as one text: the default's, or the file's.
std::string text_of(const OcrConfig& config);

}  // namespace pocketvlm
