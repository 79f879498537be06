#include <ft2build.h>
#include FT_FREETYPE_H
#include <png.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "data/scenes/sprite_library.h"

namespace pocketvlm {
namespace {

constexpr const char* kEmojiFont = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf";
constexpr const char* kStampFolder = "/usr/share/tuxpaint/stamps/";
constexpr int kBitmapPixels = 109;  // the one size of the colour bitmaps in the font

/// A face of the emoji font, released at the end of the scope.
class EmojiFace {
 public:
  EmojiFace() {
    PV_CHECK(std::filesystem::exists(kEmojiFont),
             "{}: font not found; install the Debian package fonts-noto-color-emoji",
             kEmojiFont);
    PV_CHECK(FT_Init_FreeType(&library_) == 0, "FreeType does not start");
    if (FT_New_Face(library_, kEmojiFont, 0, &face_) != 0 || FT_HAS_COLOR(face_) == 0 ||
        face_->num_fixed_sizes < 1 || FT_Select_Size(face_, 0) != 0) {
      release();
      fail("{}: not a font with colour bitmaps; reinstall the Debian package fonts-noto-color-emoji",
           kEmojiFont);
    }
  }
  EmojiFace(const EmojiFace&) = delete;
  EmojiFace& operator=(const EmojiFace&) = delete;
  ~EmojiFace() { release(); }

  Sprite bitmap(char32_t code_point) {
    const FT_UInt glyph = FT_Get_Char_Index(face_, code_point);
    PV_CHECK(glyph != 0 && FT_Load_Glyph(face_, glyph, FT_LOAD_COLOR) == 0 &&
                 face_->glyph->bitmap.pixel_mode == FT_PIXEL_MODE_BGRA,
             "{}: no colour bitmap of {} pixels for U+{:04X}; update the Debian package "
             "fonts-noto-color-emoji",
             kEmojiFont,
             kBitmapPixels,
             static_cast<std::uint32_t>(code_point));
    const FT_Bitmap& bitmap = face_->glyph->bitmap;
    Sprite sprite{static_cast<int>(bitmap.width), static_cast<int>(bitmap.rows), {}};
    sprite.rgba.resize(static_cast<std::size_t>(bitmap.width) * bitmap.rows * 4);
    std::uint8_t* target = sprite.rgba.data();
    for (unsigned y = 0; y < bitmap.rows; ++y) {
      const std::uint8_t* source = bitmap.buffer + static_cast<std::ptrdiff_t>(y) * bitmap.pitch;
      for (unsigned x = 0; x < bitmap.width; ++x, source += 4, target += 4) {
        target[0] = source[2];
        target[1] = source[1];
        target[2] = source[0];
        target[3] = source[3];
      }
    }
    return sprite;
  }

 private:
  void release() {
    if (face_ != nullptr) FT_Done_Face(face_);
    FT_Done_FreeType(library_);
  }

  FT_Library library_ = nullptr;
  FT_Face face_ = nullptr;
};

}  // namespace

std::vector<Sprite> load_emoji(const std::vector<char32_t>& code_points) {
  EmojiFace face;
  std::vector<Sprite> sprites;
  for (const char32_t code_point : code_points) {
    sprites.push_back(crop_to_visible(face.bitmap(code_point)));
    PV_CHECK(sprites.back().width > 0,
             "{}: the bitmap of U+{:04X} is empty",
             kEmojiFont,
             static_cast<std::uint32_t>(code_point));
  }
  return sprites;
}

Sprite load_stamp(const std::string& file, int max_side) {
  const std::string path = kStampFolder + file;
  PV_CHECK(std::filesystem::exists(path),
           "{}: stamp not found; install the Debian package tuxpaint-stamps-default",
           path);
  const std::string bytes = read_file(path);
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  PV_CHECK(png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()) != 0,
           "{}: damaged PNG ({}); reinstall the Debian package tuxpaint-stamps-default",
           path,
           png.message);
  png.format = PNG_FORMAT_RGBA;
  Sprite sprite{static_cast<int>(png.width), static_cast<int>(png.height), {}};
  sprite.rgba.resize(PNG_IMAGE_SIZE(png));
  if (png_image_finish_read(&png, nullptr, sprite.rgba.data(), 0, nullptr) == 0) {
    png_image_free(&png);
    fail("{}: damaged PNG ({}); reinstall the Debian package tuxpaint-stamps-default", path, png.message);
  }
  for (std::size_t i = 0; i < sprite.rgba.size(); i += 4) {
    for (std::size_t c = 0; c < 3; ++c) {
      sprite.rgba[i + c] =
          static_cast<std::uint8_t>((sprite.rgba[i + c] * sprite.rgba[i + 3] + 127) / 255);
    }
  }
  sprite = crop_to_visible(sprite);
  PV_CHECK(sprite.width > 0, "{}: the stamp is empty", path);
  const int side = std::max(sprite.width, sprite.height);
  if (side <= max_side) return sprite;
  const auto scaled = [&](int length) {
    return std::max(1, static_cast<int>(static_cast<std::int64_t>(length) * max_side / side));
  };
  return resize_sprite(sprite, scaled(sprite.width), scaled(sprite.height));
}

}  // namespace pocketvlm
