#pragma once

#include <cstdint>
#include <optional>

namespace pocketvlm {

struct PixelSize {
  int width = 0;
  int height = 0;
  bool operator==(const PixelSize&) const = default;
};

struct SliceGrid {
  int columns = 0;
  int rows = 0;
  bool operator==(const SliceGrid&) const = default;
};

/// How one image is cut for the vision encoder: first the overview, then, when `grid` is set, the
/// image resized to `refine` and cut into columns x rows equal tiles, row by row.
struct SlicePlan {
  PixelSize overview;
  std::optional<SliceGrid> grid;
  PixelSize refine;  // whole refined image; {0, 0} without a grid
  PixelSize tile() const;
  int num_slices() const { return 1 + (grid ? grid->columns * grid->rows : 0); }
};

/// Adaptive slicing of MiniCPM-V 2.0 / 2.5 / 2.6 (report section 3.2). IEEE double arithmetic;
/// rounding is half to even; int() truncates.
///   max_slices        tiles at most (9 in the released models); 1 never slices
///   scale_resolution  side of the square whose area a slice gets (448)
///   patch_size        sides are multiples of it (14)
SlicePlan plan_slices(int width, int height, int max_slices, int scale_resolution, int patch_size);

}  // namespace pocketvlm
