#include "data/preprocess/slicing.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// The multiple of `step` nearest to `side` (half goes to the even multiple), at least one step.
int snap(double side, int step) {
  return std::max(static_cast<int>(std::nearbyint(side / step)) * step, step);
}

/// A size with the same shape whose area is about resolution^2, in whole patches.
/// Smaller images keep their size (rounded to patches) unless `enlarge`.
PixelSize fit(double width, double height, int resolution, int patch, bool enlarge) {
  if (enlarge || width * height > static_cast<double>(resolution) * resolution) {
    const double aspect = width / height;
    height = std::trunc(resolution / std::sqrt(aspect));
    width = std::trunc(height * aspect);
  }
  return {snap(width, patch), snap(height, patch)};
}

/// The grid of n-1, n or n+1 tiles whose shape is nearest to the image's; the first of equals.
SliceGrid best_grid(double log_aspect, int tiles, int max_tiles) {
  SliceGrid best{1, 1};
  double least = std::numeric_limits<double>::infinity();
  for (int count = tiles - 1; count <= tiles + 1; ++count) {
    if (count == 1 || count > max_tiles) continue;
    for (int columns = 1; columns <= count; ++columns) {
      if (count % columns != 0) continue;
      const int rows = count / columns;
      const double distance = std::abs(log_aspect - std::log(static_cast<double>(columns) / rows));
      if (distance < least) {
        least = distance;
        best = {columns, rows};
      }
    }
  }
  return best;
}

}  // namespace

PixelSize SlicePlan::tile() const {
  if (!grid) return {};
  return {refine.width / grid->columns, refine.height / grid->rows};
}

SlicePlan plan_slices(int width, int height, int max_slices, int scale_resolution, int patch_size) {
  PV_CHECK(width > 0 && height > 0, "cannot slice an image of {} x {} pixels", width, height);
  PV_CHECK(max_slices > 0 && scale_resolution > 0 && patch_size > 0,
           "max_slices = {}, scale_resolution = {} and patch_size = {} must be positive",
           max_slices,
           scale_resolution,
           patch_size);
  const double area = static_cast<double>(width) * height;
  const double slice_area = static_cast<double>(scale_resolution) * scale_resolution;
  const int tiles =
      static_cast<int>(std::min(std::ceil(area / slice_area), static_cast<double>(max_slices)));

  SlicePlan plan;
  plan.overview = fit(width, height, scale_resolution, patch_size, tiles <= 1);
  if (tiles <= 1) return plan;
  const double log_aspect = std::log(static_cast<double>(width) / height);
  const SliceGrid grid = best_grid(log_aspect, tiles, max_slices);
  // Each tile is fitted by itself, so that the cuts fall between patches.
  const double tile_width = static_cast<double>(snap(width, grid.columns)) / grid.columns;
  const double tile_height = static_cast<double>(snap(height, grid.rows)) / grid.rows;
  const PixelSize tile = fit(tile_width, tile_height, scale_resolution, patch_size, true);
  plan.grid = grid;
  plan.refine = {tile.width * grid.columns, tile.height * grid.rows};
  return plan;
}

}  // namespace pocketvlm
