#pragma once

#include "data/preprocess/image.h"

namespace pocketvlm {

/// Antialiased bicubic resize, byte-equal to Pillow's Image.resize((width, height), BICUBIC) for RGB:
/// a = -0.5, support scaled when shrinking, fixed-point coefficients with 22 fractional bits, horizontal pass first,
/// each pass rounded to 8 bits. OpenCV's bicubic is not antialiased and gives other pixels.
Image resize_bicubic(const Image& image, int width, int height);

}  // namespace pocketvlm
