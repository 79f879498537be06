#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pocketvlm {

/// 8-bit RGB, row-major, interleaved: rgb[(y * width + x) * 3 + channel]. An outline is an image of
/// which the size alone is known: rgb is empty.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgb;

  Image() = default;
  Image(int w, int h) : width(w), height(h), rgb(static_cast<std::size_t>(w) * h * 3) {}
  static Image outline(int width, int height);
  bool has_pixels() const { return !rgb.empty(); }
  std::uint8_t* at(int x, int y) { return &rgb[(static_cast<std::size_t>(y) * width + x) * 3]; }
  const std::uint8_t* at(int x, int y) const {
    return &rgb[(static_cast<std::size_t>(y) * width + x) * 3];
  }
};

struct DecodeOptions {
  double max_megapixels = 100.0;  // larger images are refused before memory is taken
  bool apply_exif = false;        // the released models ignore EXIF orientation
  bool size_only = false;         // read the header alone and give an outline

  DecodeOptions for_sizes() const {
    DecodeOptions options = *this;
    options.size_only = true;
    return options;
  }
};

inline Image Image::outline(int width, int height) {
  Image image;
  image.width = width;
  image.height = height;
  return image;
}

/// Decodes JPEG, PNG, WebP or GIF (first frame) to exactly the pixels that Pillow's
/// Image.open(f).convert("RGB") gives: libjpeg-turbo with its default (fancy) upsampling and ISLOW
/// DCT, CMYK and YCCK as Pillow converts them, alpha dropped, palettes expanded, 16-bit PNG as
/// Pillow reduces it. A truncated or damaged file is an Error that starts with `where`; never grey
/// fill. With options.size_only an outline of the same size, and an Error for what the header alone
/// shows to be wrong; damage among the pixels stays unseen.
Image decode_image(std::span<const std::byte> bytes,
                   const std::string& where,
                   const DecodeOptions& options = {});

/// Reads and decodes a file. Errors name the file.
Image load_image(const std::string& path, const DecodeOptions& options = {});

/// Encodes as PNG (lossless). Same pixels, same bytes.
std::string encode_png(const Image& image);

/// Encodes as JPEG, quality 1..100, 4:2:0.
std::string encode_jpeg(const Image& image, int quality);

}  // namespace pocketvlm
