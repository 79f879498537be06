#include "data/ocr/font_collection.h"

#include <ft2build.h>
#include FT_FREETYPE_H

#include <algorithm>
#include <cassert>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "data/ocr/text_lines.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

std::vector<std::string> font_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code problem;
  for (auto entry = std::filesystem::recursive_directory_iterator(folder, problem);
       !problem && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(problem)) {
    std::string ending = entry->path().extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (ending == ".ttf" || ending == ".otf" || ending == ".ttc" || ending == ".otc") files.push_back(entry->path().string());
  }
  PV_CHECK(!problem, "ocr.fonts: {}: {}; name a readable folder", folder, problem.message());
  std::sort(files.begin(), files.end());
  return files;
}

/// A FreeType library and the one face that is open in it.
struct OpenFace {
  FT_Library library = nullptr;
  FT_Face face = nullptr;

  OpenFace() { PV_CHECK(FT_Init_FreeType(&library) == 0, "FreeType does not start"); }
  OpenFace(const OpenFace&) = delete;
  OpenFace& operator=(const OpenFace&) = delete;
  ~OpenFace() {
    close();
    FT_Done_FreeType(library);
  }
  void close() {
    if (face != nullptr) FT_Done_Face(face);
    face = nullptr;
  }
  bool open(const std::string& path, int index) {
    close();
    if (FT_New_Face(library, path.c_str(), index, &face) == 0) return true;
    face = nullptr;
    return false;
  }
};

/// Whether the face has an outline for the letter, not an empty one.
bool draws_ink(FT_Face face, char32_t letter) {
  const FT_UInt index = FT_Get_Char_Index(face, letter);
  return index != 0 && FT_Load_Glyph(face, index, FT_LOAD_NO_SCALE) == 0 &&
         face->glyph->format == FT_GLYPH_FORMAT_OUTLINE && face->glyph->outline.n_points > 0;
}

}  // namespace

FontCollection::FontCollection(const std::string& folder, std::string_view text) {
  std::set<char32_t> letters;
  for (const char32_t letter : letters_of(text)) letters.insert(letter);
  OpenFace open;
  std::map<char32_t, std::vector<int>> having;
  for (const std::string& path : font_files(folder)) {
    for (int index = 0, count = 1; index < count; ++index) {
      if (!open.open(path, index)) break;
      count = static_cast<int>(open.face->num_faces);
      // A face without Unicode places (symbols) would show other letters than those asked for.
      if (!FT_IS_SCALABLE(open.face) || FT_HAS_COLOR(open.face) ||
          FT_Select_Charmap(open.face, FT_ENCODING_UNICODE) != 0) {
        continue;
      }
      const int number = static_cast<int>(faces_.size());
      const auto text_or = [](const char* words) { return std::string(words == nullptr ? "" : words); };
      faces_.push_back({path, index, text_or(open.face->family_name) + " " + text_or(open.face->style_name)});
      for (const char32_t letter : letters) {
        if (draws_ink(open.face, letter)) having[letter].push_back(number);
      }
    }
  }
  PV_CHECK(!faces_.empty(), "ocr.fonts: {}: holds no TrueType or OpenType font; install fonts-noto-core or name another folder", folder);
  words_ = (faces_.size() + 63) / 64;
  for (const auto& [letter, faces] : having) {
    std::vector<std::uint64_t>& bits = by_letter_[letter];
    bits.assign(words_, 0);
    for (const int face : faces) bits[static_cast<std::size_t>(face) / 64] |= std::uint64_t{1} << (face % 64);
  }
}

const std::vector<std::uint64_t>* FontCollection::faces_with(char32_t letter) const {
  const auto found = by_letter_.find(letter);
  return found == by_letter_.end() ? nullptr : &found->second;
}

std::optional<char32_t> FontCollection::missing_letter(std::u32string_view letters) const {
  std::vector<std::uint64_t> left(words_, ~std::uint64_t{0});
  for (const char32_t letter : letters) {
    if (letter == U' ') continue;
    const auto* having = faces_with(letter);
    if (having == nullptr) return letter;
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < words_; ++i) any |= left[i] &= (*having)[i];
    if (any == 0) return letter;
  }
  return std::nullopt;
}

std::vector<int> FontCollection::faces_for(std::u32string_view letters) const {
  std::vector<int> faces;
  for (int face = 0; face < static_cast<int>(faces_.size()); ++face) {
    const bool has_all = std::all_of(letters.begin(), letters.end(), [&](char32_t letter) {
      if (letter == U' ') return true;
      const auto* having = faces_with(letter);
      return having != nullptr && (((*having)[static_cast<std::size_t>(face) / 64] >> (face % 64)) & 1) != 0;
    });
    if (has_all) faces.push_back(face);
  }
  return faces;
}

struct LetterPainter::State {
  const FontCollection& fonts;
  OpenFace open;
  int opened = -1;
};

LetterPainter::LetterPainter(const FontCollection& fonts) : state_(new State{fonts, {}, -1}) {}
LetterPainter::~LetterPainter() = default;

DrawnLine LetterPainter::draw(int face, int pixels, const std::u32string& letters) {
  const FontFace& font = state_->fonts.faces().at(static_cast<std::size_t>(face));
  const auto check = [&](bool is_readable) { PV_CHECK(is_readable, "{}: the font can no longer be read", font.path); };
  if (state_->opened != face) {
    state_->opened = -1;
    check(state_->open.open(font.path, font.index));
    state_->opened = face;
  }
  const FT_Face open = state_->open.face;
  check(FT_Set_Pixel_Sizes(open, 0, static_cast<FT_UInt>(pixels)) == 0);
  struct Glyph {
    int left, top, width, height;
    std::vector<std::uint8_t> coverage;
  };
  std::vector<Glyph> glyphs;
  int pen = 0, left = 1 << 30, right = -(1 << 30), above = -(1 << 30), below = 1 << 30;
  for (const char32_t letter : visual_order(letters)) {
    if (letter == U' ') {
      pen += std::max(1, pixels / 4);
      continue;
    }
    check(FT_Load_Char(open, letter, FT_LOAD_RENDER | FT_LOAD_NO_HINTING) == 0);
    assert(open->glyph->bitmap.pixel_mode == FT_PIXEL_MODE_GRAY);
    const FT_Bitmap& bitmap = open->glyph->bitmap;
    Glyph glyph{pen + open->glyph->bitmap_left, open->glyph->bitmap_top, static_cast<int>(bitmap.width), static_cast<int>(bitmap.rows), {}};
    for (int row = 0; row < glyph.height; ++row) {
      const unsigned char* from = bitmap.buffer + static_cast<std::ptrdiff_t>(row) * bitmap.pitch;
      glyph.coverage.insert(glyph.coverage.end(), from, from + glyph.width);
    }
    pen += static_cast<int>((open->glyph->advance.x + 32) >> 6);
    left = std::min(left, glyph.left);
    right = std::max(right, glyph.left + glyph.width);
    above = std::max(above, glyph.top);
    below = std::min(below, glyph.top - glyph.height);
    glyphs.push_back(std::move(glyph));
  }
  assert(!glyphs.empty());  // lines hold letters, and faces with ink for them
  DrawnLine line{right - left, above - below, {}};
  line.coverage.assign(static_cast<std::size_t>(line.width) * static_cast<std::size_t>(line.height), 0);
  for (const Glyph& glyph : glyphs) {
    for (int row = 0; row < glyph.height; ++row) {
      for (int column = 0; column < glyph.width; ++column) {
        const auto to = static_cast<std::size_t>(above - glyph.top + row) * static_cast<std::size_t>(line.width) +
                        static_cast<std::size_t>(glyph.left - left + column);
        line.coverage[to] = std::max(line.coverage[to], glyph.coverage[static_cast<std::size_t>(row) * static_cast<std::size_t>(glyph.width) + static_cast<std::size_t>(column)]);
      }
    }
  }
  return line;
}

}  // namespace pocketvlm
