#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/preprocess/image_processor.h"

namespace pocketvlm {

/// What `export --vision-onnx` is told.
struct OnnxExportOptions {
  std::string precision = "fp16";                // fp32 | fp16 | int8
  std::vector<std::array<int64_t, 2>> grids;     // (rows, columns) of patches, one file each; empty: those of the pictures given
  int64_t longest = 0;                           // 2.5 as released: patches of the longest slice of a request; 0: the grid's own
  std::vector<Image> pictures;                   // to calibrate and compare on; empty: scenes of the embedded world
  double min_cosine = 0.9999;                    // of a visual token, file against trainer
  double min_cosine_int8 = 0.9;                  // the same for int8, where weights decide; a wrong graph is far below
};

/// "32x32" -> (32, 32). Throws Error for anything else.
std::array<int64_t, 2> parse_grid(const std::string& text);

/// Writes the vision part of a checkpoint as DIR/vision-RxC-PRECISION.onnx, one file a grid, then reads each back, computes it and
/// compares it with the trainer on pictures that calibration has not seen. Returns what DIR/vision-onnx-PRECISION.json holds:
///   {"passed", "input", "output", "normalization", "files": [{"file", "grid", "bytes", "cosine", "mean_cosine", "pictures", "passed"}]}
/// cosine: the smallest of a visual token.
Json export_vision_onnx(const std::string& checkpoint_folder, const OnnxExportOptions& options, const std::string& folder);

}  // namespace pocketvlm
