#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "base/uninitialized.h"
#include "data/preprocess/image.h"
#include "data/preprocess/slicing.h"

namespace pocketvlm {

/// How pictures become encoder input. Part of a model's config, written into checkpoint and GGUF.
struct ImageConfig {
  std::string mode = "slices";
  int64_t image_size = 448;        // side for squash, pad_square, center_crop
  int64_t scale_resolution = 448;  // for slices
  int64_t max_slices = 9;
  int64_t patch_size = 14;
  std::vector<double> mean = {0.5, 0.5, 0.5};
  std::vector<double> std = {0.5, 0.5, 0.5};
  double max_megapixels = 100.0;
  std::string exif = "ignore";

  void visit_fields(auto&& field) {
    field("mode",
          mode,
          "slices: adaptive slicing; squash: resize to a square (MiniCPM-V 1.0); pad_square: pad "
          "with the mean "
          "colour, then resize (MobileVLM); center_crop: short side to image_size, then crop "
          "(MobileVLM stage 1)",
          one_of({"slices", "squash", "pad_square", "center_crop"}));
    field("image_size", image_size, "side in pixels for the square modes", in_range(1, 8192));
    field("scale_resolution",
          scale_resolution,
          "side of the square whose area one slice gets, pixels",
          in_range(1, 8192));
    field("max_slices",
          max_slices,
          "tiles at most, beside the overview; 1 never slices",
          in_range(1, 1024));
    field("patch_size", patch_size, "side of one vision patch, pixels", in_range(1, 256));
    field("mean", mean, "per channel, of pixels in 0..1");
    field("std", std, "per channel, of pixels in 0..1");
    field("max_megapixels",
          max_megapixels,
          "larger images are refused before memory is taken",
          in_range(0.0001, 10000));
    field("exif",
          exif,
          "EXIF orientation: the released models ignore it",
          one_of({"ignore", "apply"}));
  }
  void validate(const std::string& path) const;
};

/// One slice, normalised: pixels[(channel * height + y) * width + x], sides multiples of the patch.
struct ImageSlice {
  int width = 0;
  int height = 0;
  std::vector<float> pixels;
};

struct ProcessedImage {
  SlicePlan plan;                  // square modes: overview only
  std::vector<ImageSlice> slices;  // overview first, then tiles row by row
};

/// How picture files are to be decoded for this config.
DecodeOptions decode_options(const ImageConfig& config);

/// The plan alone, without touching pixels.
SlicePlan plan_image(int width, int height, const ImageConfig& config);

/// Resizes, cuts and normalises: (value / 255 - mean) / std in float32.
ProcessedImage process_image(const Image& image, const ImageConfig& config);

/// Pixels as the encoder reads them: [patches, 3 * patch * patch], each row in the order (channel, y, x) of a convolution
/// kernel; patches row-major, slice after slice.
using PatchValues = UninitializedVector<float>;

/// Slice -> rows of patches for the encoder: appends [rows * columns, 3 * patch * patch] to `out`,
/// each row in the order (channel, y, x) of a convolution kernel; patches row-major.
void append_patches(const ImageSlice& slice, int patch_size, PatchValues& out);

}  // namespace pocketvlm
