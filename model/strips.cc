#include "model/strips.h"

#include <algorithm>

#include "base/error.h"

namespace pocketvlm {

torch::Tensor encode_strips(VisionEncoder& encoder,
                            const torch::Tensor& patches,
                            const std::vector<std::array<int64_t, 2>>& grids,
                            int64_t longest) {
  std::vector<int64_t> lengths;
  for (const auto& grid : grids) {
    lengths.push_back(grid[0] * grid[1]);
    longest = std::max(longest, lengths.back());
  }
  int64_t total = 0;
  for (const int64_t length : lengths) total += length;
  PV_CHECK(patches.dim() == 2 && patches.size(0) == total && total > 0,
           "vision encoder: {} rows of patches, but the grids add up to {}",
           patches.dim() == 2 ? patches.size(0) : -1,
           total);
  std::vector<torch::Tensor> rows;
  for (const torch::Tensor& strip : patches.split_with_sizes(lengths)) {
    rows.push_back(torch::constant_pad_nd(strip, {0, 0, 0, longest - strip.size(0)}));
  }
  const auto slices = static_cast<int64_t>(grids.size());
  const torch::Tensor features =
      encoder->forward(torch::cat(rows), std::vector<std::array<int64_t, 2>>(grids.size(), {1, longest}))
          .unflatten(0, {slices, longest});
  std::vector<torch::Tensor> kept;
  for (int64_t i = 0; i < slices; ++i) kept.push_back(features[i].narrow(0, 0, lengths[static_cast<std::size_t>(i)]));
  return torch::cat(kept);
}

}  // namespace pocketvlm
