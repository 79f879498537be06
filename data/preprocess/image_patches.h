#pragma once

#include <array>
#include <vector>

#include "data/preprocess/image_processor.h"

namespace pocketvlm {

/// process_image and append_patches in one pass over the pixels, without the slices between: what training reads. Appends
/// the rows of all slices to `patches` and (rows, columns) of each to `grids`; the same floats to the last bit. An outline has
/// grids alone.
SlicePlan append_image(const Image& image,
                       const ImageConfig& config,
                       PatchValues& patches,
                       std::vector<std::array<int, 2>>& grids);

}  // namespace pocketvlm
