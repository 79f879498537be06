#include "data/scenes/signs.h"

#include <ft2build.h>
#include FT_FREETYPE_H

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/random.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kSignStream = 0x7369676e;

struct FontFile {
  const char* path;
  int face;  // number inside a collection
  const char* package;
};

enum Script { kLatin, kArabic, kDevanagari, kHan, kKana, kHangul, kNumScripts };

constexpr FontFile kFonts[kNumScripts] = {
    {"/usr/share/fonts/truetype/noto/NotoSans-Bold.ttf", 0, "fonts-noto-core"},
    {"/usr/share/fonts/truetype/noto/NotoSansArabic-Bold.ttf", 0, "fonts-noto-core"},
    {"/usr/share/fonts/truetype/noto/NotoSansDevanagari-Bold.ttf", 0, "fonts-noto-core"},
    {"/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc", 2, "fonts-noto-cjk"},
    {"/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc", 0, "fonts-noto-cjk"},
    {"/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc", 1, "fonts-noto-cjk"},
};

Script script_of(const std::u32string& text) {
  Script script = kLatin;
  for (const char32_t letter : text) {
    if (letter >= 0x600 && letter < 0x700) return kArabic;
    if (letter >= 0x900 && letter < 0x980) return kDevanagari;
    if (letter >= 0x3040 && letter < 0x3100) return kKana;
    if (letter >= 0xAC00 && letter < 0xD7B0) return kHangul;
    if (letter >= 0x4E00 && letter < 0xA000) script = kHan;
  }
  return script;
}

struct Glyph {
  int left = 0, top = 0, advance = 0, width = 0, height = 0;
  std::vector<std::uint8_t> coverage;
};

using Rgb = std::array<int, 3>;
struct BoardColours {
  Rgb board, text;
};
constexpr BoardColours kBoards[] = {
    {{250, 250, 250}, {20, 20, 20}},
    {{20, 60, 160}, {255, 255, 255}},
    {{10, 110, 50}, {255, 255, 255}},
    {{190, 20, 25}, {255, 255, 255}},
    {{250, 205, 40}, {20, 20, 20}},
    {{40, 40, 45}, {255, 255, 255}},
};

int padding_of(int font_pixels) { return std::max(3, font_pixels / 3); }

}  // namespace

struct SignPainter::State {
  std::mutex mutex;  // FreeType faces serve one thread at a time
  FT_Library library = nullptr;
  std::array<FT_Face, kNumScripts> faces{};
  std::map<std::tuple<int, int, char32_t>, Glyph> glyphs;  // (script, pixels, code point)

  State() { PV_CHECK(FT_Init_FreeType(&library) == 0, "FreeType does not start"); }
  ~State() {
    for (FT_Face face : faces) {
      if (face != nullptr) FT_Done_Face(face);
    }
    FT_Done_FreeType(library);
  }

  const Glyph& glyph(Script script, int pixels, char32_t letter) {
    const auto key = std::make_tuple(static_cast<int>(script), pixels, letter);
    const auto found = glyphs.find(key);
    if (found != glyphs.end()) return found->second;
    const FontFile& font = kFonts[script];
    FT_Face& face = faces[script];
    if (face == nullptr) {
      PV_CHECK(std::filesystem::exists(font.path) &&
                   FT_New_Face(library, font.path, font.face, &face) == 0,
               "{}: font not found or unreadable; install the Debian package {}",
               font.path,
               font.package);
    }
    const FT_UInt index = FT_Get_Char_Index(face, letter);
    PV_CHECK(index != 0 && FT_Set_Pixel_Sizes(face, 0, static_cast<FT_UInt>(pixels)) == 0 &&
                 FT_Load_Glyph(face, index, FT_LOAD_RENDER | FT_LOAD_NO_HINTING) == 0,
             "{}: no glyph for U+{:04X}",
             font.path,
             static_cast<std::uint32_t>(letter));
    const FT_GlyphSlot slot = face->glyph;
    Glyph glyph;
    glyph.left = slot->bitmap_left;
    glyph.top = slot->bitmap_top;
    glyph.advance = static_cast<int>((slot->advance.x + 32) >> 6);
    glyph.width = static_cast<int>(slot->bitmap.width);
    glyph.height = static_cast<int>(slot->bitmap.rows);
    for (int y = 0; y < glyph.height; ++y) {
      const std::uint8_t* row = slot->bitmap.buffer + static_cast<std::ptrdiff_t>(y) * slot->bitmap.pitch;
      glyph.coverage.insert(glyph.coverage.end(), row, row + glyph.width);
    }
    return glyphs.emplace(key, std::move(glyph)).first->second;
  }

  /// Ink of the whole word: leftmost and rightmost column, highest and lowest row around the baseline.
  struct Extent {
    int left = 0, right = 0, above = 0, below = 0;
  };
  Extent extent(Script script, int pixels, const std::u32string& letters) {
    Extent extent{1 << 20, -(1 << 20), -(1 << 20), -(1 << 20)};
    int pen = 0;
    for (const char32_t letter : letters) {
      const Glyph& shape = glyph(script, pixels, letter);
      if (shape.width > 0) {
        extent.left = std::min(extent.left, pen + shape.left);
        extent.right = std::max(extent.right, pen + shape.left + shape.width);
        extent.above = std::max(extent.above, shape.top);
        extent.below = std::max(extent.below, shape.height - shape.top);
      }
      pen += shape.advance;
    }
    return extent;
  }
};

SignPainter::SignPainter() : state_(std::make_unique<State>()) {}
SignPainter::~SignPainter() = default;

SignPainter::Size SignPainter::measure(const std::string& text, int font_pixels) const {
  const std::u32string letters = letters_of(text);
  const std::lock_guard lock(state_->mutex);
  const State::Extent extent = state_->extent(script_of(letters), font_pixels, letters);
  const int padding = padding_of(font_pixels);
  return {extent.right - extent.left + 2 * padding, extent.above + extent.below + 2 * padding};
}

void SignPainter::draw(
    const std::string& text, int font_pixels, int x, int y, std::uint64_t seed, Image& image) const {
  Random random({kSignStream, seed});
  const BoardColours& colours = kBoards[random.below(std::size(kBoards))];
  const std::u32string letters = letters_of(text);
  const std::lock_guard lock(state_->mutex);
  const Script script = script_of(letters);
  const State::Extent extent = state_->extent(script, font_pixels, letters);
  const int padding = padding_of(font_pixels);
  const int width = extent.right - extent.left + 2 * padding;
  const int height = extent.above + extent.below + 2 * padding;
  const auto paint = [&](int column, int row, const Rgb& colour, int coverage) {
    if (column < 0 || row < 0 || column >= image.width || row >= image.height) return;
    std::uint8_t* target = image.at(column, row);
    for (std::size_t c = 0; c < 3; ++c) {
      target[c] = static_cast<std::uint8_t>((target[c] * (255 - coverage) + colour[c] * coverage + 127) / 255);
    }
  };
  for (int row = 0; row < height; ++row) {
    for (int column = 0; column < width; ++column) {
      const bool border = row == 0 || column == 0 || row == height - 1 || column == width - 1;
      paint(x + column, y + row, border ? colours.text : colours.board, 255);
    }
  }
  int pen = padding - extent.left;
  for (const char32_t letter : letters) {
    const Glyph& shape = state_->glyph(script, font_pixels, letter);
    const int top = padding + extent.above - shape.top;
    for (int row = 0; row < shape.height; ++row) {
      for (int column = 0; column < shape.width; ++column) {
        const int coverage = shape.coverage[static_cast<std::size_t>(row) * shape.width + column];
        if (coverage != 0) paint(x + pen + shape.left + column, y + top + row, colours.text, coverage);
      }
    }
    pen += shape.advance;
  }
}

const std::vector<std::string>& sign_words(const std::string& language) {
  // No word here names an object class: a sign that says "BUS" would count as a bus that is not there.
  static const std::map<std::string, std::vector<std::string>> words = {
      {"en", {"OPEN", "STOP", "EXIT", "SALE", "HOTEL", "CAFE", "TAXI",  "BANK", "PARK",  "SHOP",
              "FREE", "HELP", "LOVE", "HOME", "FOOD",  "SLOW", "WAIT",  "PUSH", "PULL",  "NEW",
              "YES",  "NO",   "GO",   "HOT",  "COLD",  "LEFT", "RIGHT", "UP",   "DOWN",  "START",
              "END",  "GAME", "MUSIC","CITY", "ROAD",  "ZOO",  "FARM",  "CLUB", "BEACH", "MARKET",
              "PIZZERIA", "SCHOOL", "POST", "POLICE", "INFO", "WELCOME", "TICKETS", "MUSEUM"}},
      {"de", {"OFFEN", "HALT", "AUSGANG", "EINGANG", "HOTEL", "RATHAUS", "POST", "MARKT", "SCHULE", "VORSICHT", "FREI", "GRÜN"}},
      {"fr", {"OUVERT", "SORTIE", "ENTRÉE", "MARCHÉ", "ÉCOLE", "POSTE", "MAIRIE", "ARRÊT", "LIBRE", "GARE"}},
      {"es", {"ABIERTO", "SALIDA", "ENTRADA", "ESCUELA", "MERCADO", "PLAYA", "NIÑOS", "PARE", "LIBRE", "CORREOS"}},
      {"pt", {"ABERTO", "SAÍDA", "ENTRADA", "ESCOLA", "MERCADO", "PRAIA", "CORREIO", "PARE", "LIVRE", "ESTAÇÃO"}},
      {"it", {"APERTO", "USCITA", "ENTRATA", "SCUOLA", "MERCATO", "POSTA", "LIBERO", "FERMATA", "CITTÀ", "SPIAGGIA"}},
      {"ru", {"СТОП", "ВЫХОД", "ВХОД", "КАФЕ", "БАНК", "ПОЧТА", "РЫНОК", "ШКОЛА", "ПАРК", "МЕТРО"}},
      {"zh", {"出口", "入口", "商店", "学校", "银行", "公园", "市场", "欢迎", "停", "慢"}},
      {"ja", {"出口", "入口", "止まれ", "スーパー", "カフェ", "ホテル", "ようこそ", "さくら", "ラーメン", "まつり"}},
      {"ko", {"출구", "입구", "정지", "학교", "은행", "공원", "시장", "환영", "카페", "호텔"}},
  };
  static const std::vector<std::string> none;
  const auto found = words.find(language);
  return found == words.end() ? none : found->second;
}

std::string sign_number(const std::string& language, int number) {
  const char32_t zero = language == "ar" ? U'\u0660' : language == "hi" ? U'\u0966' : U'0';
  std::string digits;
  for (const char digit : std::to_string(number)) append_utf8(zero + static_cast<char32_t>(digit - '0'), digits);
  return digits;
}

}  // namespace pocketvlm
