#pragma once

#include <zlib.h>

#include <cstdint>
#include <span>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "data/preprocess/image.h"

/// What the image tests share: the reference that tests/golden/make_preprocess.py writes.
namespace pocketvlm {

inline const std::string kPreprocessData = TEST_DATA "/data/preprocess/";

inline const Json& image_golden() {
  static const Json golden = read_json(kPreprocessData + "image_golden.json");
  return golden;
}

template <typename Values>
std::string checksum(const Values& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return fmt::format("{:08x}", crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

/// The synthetic picture of the golden script, by the same formula.
inline Image pattern(int width, int height, std::uint32_t seed) {
  Image image(width, height);
  for (int row = 0; row < height; ++row) {
    for (int column = 0; column < width; ++column) {
      const auto x = static_cast<std::uint32_t>(column);
      const auto y = static_cast<std::uint32_t>(row);
      for (std::uint32_t c = 0; c < 3; ++c) {
        const std::uint32_t value =
            x * (13 + 4 * c) + y * (7 + 2 * seed) + ((x * y) >> 3) * (c + 1);
        image.at(column, row)[c] = static_cast<std::uint8_t>(value & 255);
      }
    }
  }
  return image;
}

}  // namespace pocketvlm
