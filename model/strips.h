#pragma once

#include <array>
#include <vector>

#include "model/vision_encoder.h"

namespace pocketvlm {

/// Vision features as MiniCPM-Llama3-V 2.5's released code computes them, for weights that were trained so. Each slice is laid out
/// as one row of patches, zero-padded on the right to the longest slice of the call; the tower takes that row for an image one
/// patch high, so positions are 1-D, and it attends to the padding as well, because the released mask is filled along the wrong
/// axis. Features of a slice therefore depend on the largest slice of the call.
///   longest  what the shorter ones are padded to when it is more than the longest of `grids`, in patches
///   patches  [patches, 3 * patch * patch], grids in patches; returns [patches, vision_hidden] without the padding
torch::Tensor encode_strips(VisionEncoder& encoder,
                            const torch::Tensor& patches,
                            const std::vector<std::array<int64_t, 2>>& grids,
                            int64_t longest = 0);

}  // namespace pocketvlm
