#pragma once

#include <array>
#include <cstdint>

#include "data/preprocess/image.h"

namespace pocketvlm {

/// Antialiased bicubic resize, byte-equal to Pillow's Image.resize((width, height), BICUBIC) for
/// RGB: a = -0.5, support scaled when shrinking, fixed-point coefficients with 22 fractional bits,
/// horizontal pass first, each pass rounded to 8 bits. OpenCV's bicubic is not antialiased and
/// gives other pixels.
/// The order of the passes is that of every Pillow up to 12, which the released models were trained
/// with. Pillow 13 goes down first where the height loses more than twice as many pixels as the
/// width, which moves some bytes by a level.
Image resize_bicubic(const Image& image, int width, int height);

/// CLIP's preprocessing: the short side becomes `side` (the long side in proportion, truncated),
/// then the middle side x side. Equal to resizing the whole image and cutting, but what is cut away
/// is never computed, so the most elongated image takes no more memory.
Image resize_short_side_and_crop(const Image& image, int side);

/// Centres the image on a square of its long side in one colour (offsets floored) and resizes that
/// to side x side. Equal to padding first, but the square is never stored.
Image pad_square_and_resize(const Image& image, std::array<std::uint8_t, 3> color, int side);

}  // namespace pocketvlm
