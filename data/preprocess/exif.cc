#include <algorithm>
#include <string_view>
#include <utility>

#include "data/preprocess/image_formats.h"

namespace pocketvlm {
namespace {

constexpr int kOrientationTag = 0x0112;

std::uint32_t number(FileBytes bytes, std::size_t place, int count, bool little) {
  std::uint32_t value = 0;
  for (int i = 0; i < count; ++i) {
    const auto byte = static_cast<std::uint32_t>(bytes[place + (little ? count - 1 - i : i)]);
    value = value << 8 | byte;
  }
  return value;
}

std::string_view text(FileBytes bytes, std::size_t place, std::size_t count) {
  return {reinterpret_cast<const char*>(bytes.data()) + place, count};
}

/// The EXIF block itself: a TIFF header, then the first directory of 12-byte entries
/// (tag, type, count, value).
int orientation_of_tiff(FileBytes tiff) {
  if (tiff.size() >= 6 && text(tiff, 0, 6) == std::string_view("Exif\0\0", 6))
    tiff = tiff.subspan(6);
  if (tiff.size() < 8) return 1;
  const bool little = text(tiff, 0, 2) == "II";
  if (!little && text(tiff, 0, 2) != "MM") return 1;
  const std::size_t directory = number(tiff, 4, 4, little);
  if (directory > tiff.size() - 2) return 1;
  const std::size_t entries = number(tiff, directory, 2, little);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.size()) return 1;
    if (number(tiff, entry, 2, little) != kOrientationTag) continue;
    const std::uint32_t type = number(tiff, entry + 2, 2, little);
    const std::uint32_t value =
        number(tiff, entry + 8, type == 4 ? 4 : 2, little);  // long or short
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

/// APP1 segment of a JPEG; stops where the picture data start.
FileBytes exif_of_jpeg(FileBytes file) {
  std::size_t place = 2;
  while (place + 4 <= file.size() && file[place] == std::byte{0xff}) {
    const auto marker = static_cast<unsigned>(file[place + 1]);
    if (marker == 0xff) {  // fill byte
      ++place;
      continue;
    }
    const std::size_t size = number(file, place + 2, 2, false);
    if (marker == 0xda || size < 2 || size > file.size() - place - 2) break;
    const FileBytes body = file.subspan(place + 4, size - 2);
    if (marker == 0xe1 && body.size() >= 6 && text(body, 0, 6) == std::string_view("Exif\0\0", 6)) {
      return body;
    }
    place += 2 + size;
  }
  return {};
}

FileBytes exif_of_png(FileBytes file) {
  std::size_t place = 8;
  while (file.size() - place >= 12) {
    const std::size_t size = number(file, place, 4, false);
    if (size > file.size() - place - 12) break;
    if (text(file, place + 4, 4) == "eXIf") return file.subspan(place + 8, size);
    place += 12 + size;
  }
  return {};
}

FileBytes exif_of_webp(FileBytes file) {
  std::size_t place = 12;
  while (file.size() - place >= 8) {
    const std::size_t size = number(file, place + 4, 4, true);
    if (size > file.size() - place - 8) break;
    if (text(file, place, 4) == "EXIF") return file.subspan(place + 8, size);
    const std::size_t step = 8 + size + size % 2;
    if (step > file.size() - place) break;
    place += step;
  }
  return {};
}

}  // namespace

int exif_orientation(FileBytes file) {
  if (file.size() < 16) return 1;
  if (text(file, 0, 2) == "\xff\xd8") return orientation_of_tiff(exif_of_jpeg(file));
  if (text(file, 0, 4) == "\x89PNG") return orientation_of_tiff(exif_of_png(file));
  if (text(file, 0, 4) == "RIFF") return orientation_of_tiff(exif_of_webp(file));
  return 1;
}

Image upright(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swaps_sides = orientation >= 5;
  if (!image.has_pixels()) {
    return swaps_sides ? Image::outline(image.height, image.width) : image;
  }
  Image turned(swaps_sides ? image.height : image.width, swaps_sides ? image.width : image.height);
  const int right = image.width - 1;
  const int bottom = image.height - 1;
  for (int y = 0; y < turned.height; ++y) {
    for (int x = 0; x < turned.width; ++x) {
      std::pair<int, int> from;  // column, row in the stored picture
      switch (orientation) {
        case 2:
          from = {right - x, y};
          break;
        case 3:
          from = {right - x, bottom - y};
          break;
        case 4:
          from = {x, bottom - y};
          break;
        case 5:
          from = {y, x};
          break;
        case 6:
          from = {y, bottom - x};
          break;
        case 7:
          from = {right - y, bottom - x};
          break;
        default:
          from = {right - y, x};
          break;
      }
      std::copy_n(image.at(from.first, from.second), 3, turned.at(x, y));
    }
  }
  return turned;
}

}  // namespace pocketvlm
