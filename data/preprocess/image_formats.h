#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "data/preprocess/image.h"

/// One decoder per file format, behind decode_image. Each takes the whole file, refuses by
/// check_image_size before it takes memory for pixels, and throws Error starting with `where`. With
/// options.size_only it stops there and returns an outline.
namespace pocketvlm {

using FileBytes = std::span<const std::byte>;

Image decode_jpeg(FileBytes file, const std::string& where, const DecodeOptions& options);
Image decode_png(FileBytes file, const std::string& where, const DecodeOptions& options);
Image decode_webp(FileBytes file, const std::string& where, const DecodeOptions& options);
Image decode_gif(FileBytes file, const std::string& where, const DecodeOptions& options);

/// Refuses empty images and images above options.max_megapixels.
void check_image_size(std::int64_t width,
                      std::int64_t height,
                      const std::string& where,
                      const DecodeOptions& options);

/// EXIF orientation (1..8) of a JPEG, PNG or WebP file; 1 when there is none or it is damaged.
int exif_orientation(FileBytes file);

/// Turns and mirrors so that an image with this EXIF orientation stands upright.
Image upright(Image image, int orientation);

}  // namespace pocketvlm
