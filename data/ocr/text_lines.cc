#include "data/ocr/text_lines.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/files.h"
#include "data/ocr/font_collection.h"
#include "data/preprocess/utf8.h"
#include "data/record_file.h"
#include "data/scenes/signs.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kNotBefore = 16;  // a line is not broken at a space within its first letters / this

struct Range {
  char32_t first, last;
};

/// Scripts whose letters change their form or place beside others, marks that stand above or below
/// others, controls of direction, letters without ink, and private use. Unicode's blocks.
constexpr Range kNeedShaping[] = {
    {0x0000, 0x001F}, {0x007F, 0x009F}, {0x00AD, 0x00AD}, {0x0300, 0x036F}, {0x0483, 0x0489},
    {0x0591, 0x05CF}, {0x05EB, 0x109F}, {0x1100, 0x11FF}, {0x135D, 0x135F}, {0x1700, 0x18AF},
    {0x1900, 0x1CFF}, {0x1DC0, 0x1DFF}, {0x200B, 0x200F}, {0x2028, 0x202E}, {0x2060, 0x206F},
    {0x20D0, 0x20FF}, {0x2800, 0x2800}, {0x302A, 0x302F}, {0x3099, 0x309A}, {0x3164, 0x3164}, {0xA66F, 0xA67D}, {0xA6F0, 0xA6F1},
    {0xA800, 0xABFF}, {0xD7B0, 0xD7FF}, {0xE000, 0xF8FF}, {0xFB1D, 0xFE2F}, {0xFE70, 0xFEFF}, {0xFFA0, 0xFFA0},
    {0x10800, 0x11FFF}, {0x16800, 0x16FFF}, {0x1D000, 0x10FFFF},
};

bool is_hebrew(char32_t letter) { return letter >= 0x05D0 && letter <= 0x05EA; }
bool is_space(char32_t letter) {
  return letter == U' ' || letter == U'\t' || letter == 0x00A0 || letter == 0x1680 || (letter >= 0x2000 && letter <= 0x200A) ||
         letter == 0x202F || letter == 0x205F || letter == 0x3000;
}

/// One space for each stretch of white space, none at the ends.
std::u32string with_single_spaces(const std::u32string& letters) {
  std::u32string out;
  for (const char32_t letter : letters) {
    if (!is_space(letter)) out += letter;
    else if (!out.empty() && out.back() != U' ') out += U' ';
  }
  while (!out.empty() && out.back() == U' ') out.pop_back();
  return out;
}

/// Pieces of at most `longest` letters, broken at spaces where one is not too far back.
std::vector<std::u32string> broken(const std::u32string& letters, std::size_t longest) {
  std::vector<std::u32string> pieces;
  std::size_t begin = 0;
  while (letters.size() - begin > longest) {
    std::size_t end = letters.rfind(U' ', begin + longest);
    const bool at_space = end != std::u32string::npos && end > begin + longest / kNotBefore;
    if (!at_space) end = begin + longest;
    pieces.push_back(letters.substr(begin, end - begin));
    begin = end + (at_space ? 1 : 0);
  }
  if (begin < letters.size()) pieces.push_back(letters.substr(begin));
  return pieces;
}

}  // namespace

void OcrConfig::validate(const std::string& path) const {
  PV_CHECK(min_side <= max_side, "{}.min_side: {} exceeds max_side = {}", path, min_side, max_side);
  PV_CHECK(min_font_pixels <= max_font_pixels, "{}.min_font_pixels: {} exceeds max_font_pixels = {}", path, min_font_pixels, max_font_pixels);
  PV_CHECK(min_jpeg_quality <= max_jpeg_quality,
           "{}.min_jpeg_quality: {} exceeds max_jpeg_quality = {}",
           path,
           min_jpeg_quality,
           max_jpeg_quality);
}

bool draws_letter_by_letter(std::u32string_view letters) {
  const bool hebrew = std::any_of(letters.begin(), letters.end(), is_hebrew);
  return std::all_of(letters.begin(), letters.end(), [&](char32_t letter) {
    // Hebrew among other letters or digits runs in two directions.
    if (hebrew && !is_hebrew(letter) && letter != U' ') return false;
    return std::none_of(std::begin(kNeedShaping), std::end(kNeedShaping), [&](const Range& range) {
      return letter >= range.first && letter <= range.last;
    });
  });
}

std::u32string visual_order(const std::u32string& letters) {
  if (std::none_of(letters.begin(), letters.end(), is_hebrew)) return letters;
  return {letters.rbegin(), letters.rend()};
}

std::string utf8_of(std::u32string_view letters) {
  std::string text;
  for (const char32_t letter : letters) append_utf8(letter, text);
  return text;
}

std::string text_of(const OcrConfig& config) {
  if (!config.text.empty()) return read_file(config.text);
  std::string text;
  for (const char* language : {"en", "de", "fr", "es", "pt", "it", "ru", "zh", "ja", "ko"}) {
    for (const std::string& word : sign_words(language)) text += word + "\n";
  }
  return text;
}

TextLines read_text_lines(const OcrConfig& config, const FontCollection& fonts) {
  TextLines result;
  const std::string text = text_of(config);
  std::string_view rest = text;
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
  for (std::int64_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!is_utf8(line)) {
      result.unused.push_back({number, "invalid UTF-8", "the line is not encoded in UTF-8; convert the file"});
      continue;
    }
    const std::u32string letters = with_single_spaces(letters_of(line));
    if (letters.empty()) continue;
    if (!draws_letter_by_letter(letters)) {
      result.unused.push_back({number, "needs shaping", printable(line, 60)});
      continue;
    }
    for (std::u32string& piece : broken(letters, static_cast<std::size_t>(config.max_letters))) {
      if (const auto missing = fonts.missing_letter(piece)) {
        result.unused.push_back(
            {number, "no font", fmt::format("{}: no font has all its letters (U+{:04X})", printable(utf8_of(piece), 60), static_cast<std::uint32_t>(*missing))});
      } else {
        result.lines.push_back({std::move(piece), number});
      }
    }
  }
  PV_CHECK(!result.lines.empty(),
           "{}: no line of it can be drawn ({} left out{}); give a UTF-8 file with text that the fonts in {} have",
           config.text.empty() ? "the words of signs" : config.text,
           result.unused.size(),
           result.unused.empty() ? "" : ", the first: " + result.unused.front().reason,
           config.fonts);
  return result;
}

}  // namespace pocketvlm
