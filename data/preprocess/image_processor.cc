#include "data/preprocess/image_processor.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "data/preprocess/image_patches.h"
#include "data/preprocess/pixel_levels.h"
#include "data/preprocess/resize.h"

namespace pocketvlm {
namespace {

/// The mean colour as bytes, truncated: (122, 116, 104) for CLIP.
std::array<std::uint8_t, 3> mean_color(const std::vector<double>& mean) {
  std::array<std::uint8_t, 3> color;
  for (int c = 0; c < 3; ++c) {
    color[c] = static_cast<std::uint8_t>(std::clamp(static_cast<int>(255 * mean[c]), 0, 255));
  }
  return color;
}

/// The part of `image` whose first pixel is at (left, top).
PixelBlock block_of(const Image& image, int left, int top, int width, int height) {
  return {image.at(left, top), 3 * static_cast<std::ptrdiff_t>(image.width), width, height};
}

/// Calls visit(picture, left, top, size) for the part of a resized picture that each slice is, overview first.
template <typename Visit>
void visit_slices(const Image& image, const ImageConfig& config, const SlicePlan& plan, const Visit& visit) {
  const PixelSize overview = plan.overview;
  const int side = static_cast<int>(config.image_size);
  if (config.mode == "center_crop") {
    visit(resize_short_side_and_crop(image, side), 0, 0, overview);
  } else if (config.mode == "pad_square") {
    visit(pad_square_and_resize(image, mean_color(config.mean), side), 0, 0, overview);
  } else if (image.width == overview.width && image.height == overview.height) {
    visit(image, 0, 0, overview);
  } else {
    visit(resize_bicubic(image, overview.width, overview.height), 0, 0, overview);
  }
  if (!plan.grid) return;
  const PixelSize tile = plan.tile();
  const Image refined = resize_bicubic(image, plan.refine.width, plan.refine.height);
  for (int row = 0; row < plan.grid->rows; ++row) {
    for (int column = 0; column < plan.grid->columns; ++column) {
      visit(refined, column * tile.width, row * tile.height, tile);
    }
  }
}

void check_patches(PixelSize size, int patch_size) {
  PV_CHECK(patch_size > 0 && size.width % patch_size == 0 && size.height % patch_size == 0,
           "a slice of {} x {} pixels cannot be cut into patches of {}",
           size.width,
           size.height,
           patch_size);
}

}  // namespace

void ImageConfig::validate(const std::string& path) const {
  const auto check_channels = [&](const char* name, const std::vector<double>& values) {
    PV_CHECK(values.size() == 3,
             "{}.{}: {} numbers, but there are three channels (red, green, blue)",
             path,
             name,
             values.size());
    for (const double value : values) {
      PV_CHECK(std::isfinite(value), "{}.{}: {} is not a finite number", path, name, value);
    }
  };
  check_channels("mean", mean);
  check_channels("std", std);
  for (const double value : std) {
    PV_CHECK(value > 0, "{}.std: {} must be above 0, pixels are divided by it", path, value);
  }
  if (mode == "slices") {
    PV_CHECK(scale_resolution >= patch_size,
             "{}.scale_resolution: {} is smaller than one patch ({}.patch_size = {})",
             path,
             scale_resolution,
             path,
             patch_size);
  } else {
    PV_CHECK(image_size % patch_size == 0,
             "{}.image_size: {} is no multiple of {}.patch_size = {}; take {}",
             path,
             image_size,
             path,
             patch_size,
             std::max(image_size / patch_size, std::int64_t{1}) * patch_size);
  }
}

DecodeOptions decode_options(const ImageConfig& config) {
  return {.max_megapixels = config.max_megapixels, .apply_exif = config.exif == "apply"};
}

SlicePlan plan_image(int width, int height, const ImageConfig& config) {
  if (config.mode == "slices") {
    return plan_slices(width,
                       height,
                       static_cast<int>(config.max_slices),
                       static_cast<int>(config.scale_resolution),
                       static_cast<int>(config.patch_size));
  }
  SlicePlan plan;
  plan.overview = {static_cast<int>(config.image_size), static_cast<int>(config.image_size)};
  return plan;
}

ProcessedImage process_image(const Image& image, const ImageConfig& config) {
  ProcessedImage result;
  result.plan = plan_image(image.width, image.height, config);
  const PixelLevels levels(config.mean, config.std);
  visit_slices(image, config, result.plan, [&](const Image& picture, int left, int top, PixelSize size) {
    ImageSlice slice{size.width, size.height, std::vector<float>(3 * static_cast<std::size_t>(size.width) * size.height)};
    levels.normalise(block_of(picture, left, top, size.width, size.height), slice.pixels.data());
    result.slices.push_back(std::move(slice));
  });
  return result;
}

SlicePlan append_image(const Image& image,
                       const ImageConfig& config,
                       PatchValues& patches,
                       std::vector<std::array<int, 2>>& grids) {
  const SlicePlan plan = plan_image(image.width, image.height, config);
  const int side = static_cast<int>(config.patch_size);
  const auto add_grid = [&](PixelSize size) {
    check_patches(size, side);
    grids.push_back({size.height / side, size.width / side});
  };
  if (!image.has_pixels()) {
    add_grid(plan.overview);
    for (int tile = 1; tile < plan.num_slices(); ++tile) add_grid(plan.tile());
    return plan;
  }
  const PixelLevels levels(config.mean, config.std);
  const std::size_t patch = 3 * static_cast<std::size_t>(side) * side;
  std::size_t pixels = static_cast<std::size_t>(plan.overview.width) * plan.overview.height;
  if (plan.grid) pixels += static_cast<std::size_t>(plan.refine.width) * plan.refine.height;
  patches.reserve(patches.size() + 3 * pixels);
  visit_slices(image, config, plan, [&](const Image& picture, int left, int top, PixelSize size) {
    add_grid(size);
    std::size_t place = patches.size();
    patches.resize(place + 3 * static_cast<std::size_t>(size.width) * size.height);
    for (int y = 0; y < size.height; y += side) {
      for (int x = 0; x < size.width; x += side, place += patch) {
        levels.normalise(block_of(picture, left + x, top + y, side, side), &patches[place]);
      }
    }
  });
  return plan;
}

void append_patches(const ImageSlice& slice, int patch_size, PatchValues& out) {
  check_patches({slice.width, slice.height}, patch_size);
  const std::size_t plane = static_cast<std::size_t>(slice.width) * slice.height;
  std::size_t place = out.size();
  out.resize(place + 3 * plane);
  for (int top = 0; top < slice.height; top += patch_size) {
    for (int left = 0; left < slice.width; left += patch_size) {
      for (int channel = 0; channel < 3; ++channel) {
        for (int y = 0; y < patch_size; ++y, place += patch_size) {
          const std::size_t row = static_cast<std::size_t>(top + y) * slice.width;
          std::copy_n(&slice.pixels[channel * plane + row + left], patch_size, &out[place]);
        }
      }
    }
  }
}

}  // namespace pocketvlm
