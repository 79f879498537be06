#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "mobile/linear.h"
#include "mobile/model.h"

namespace pocketvlm {

/// SigLIP / CLIP vision transformer of an mmproj file; all slices in one batch, attention inside
/// each slice. Weights stay in the mapped file.
class MobileVisionEncoder {
 public:
  MobileVisionEncoder(const GgufFile& file, const MobileVisionParams& params);

  ///   patches  [patches, 3 * patch * patch], all slices one after the other
  ///   grids    (rows, columns) of each slice
  ///   strip    strip_length() of all slices of the request, of which these may be some
  ///   returns  [patches, hidden], no class token
  std::vector<float> forward(const Compute& compute,
                             std::span<const float> patches,
                             std::span<const std::array<int, 2>> grids,
                             std::int64_t strip = 0) const;

  /// Patches of the longest slice where positions are "strips" (model/strips.h: the features of a slice depend on it), else 0.
  std::int64_t strip_length(std::span<const std::array<int, 2>> grids) const;

  const MobileVisionParams& params() const { return params_; }

  /// The large matrices and their names, for packing.
  std::vector<NamedLinear> matrices();

 private:
  struct Block {
    MobileNorm norm1;
    MobileLinear q, k, v, out;
    MobileNorm norm2;
    MobileLinear up, down;
  };
  std::vector<float> encode(const Compute& compute,
                            std::span<const float> patches,
                            std::span<const std::array<int, 2>> grids) const;
  void add_positions(std::span<const std::array<int, 2>> grids, float* x) const;
  void run_block(const Compute& compute,
                 const Block& block,
                 const std::vector<std::int64_t>& lengths,
                 std::vector<float>& x) const;

  const GgufFile& file_;
  MobileVisionParams params_;
  MobileLinear patch_embedding_;
  std::vector<float> patch_bias_;
  std::vector<float> class_embedding_;
  MobileNorm pre_norm_;
  MobileNorm final_norm_;
  std::vector<Block> blocks_;
};

}  // namespace pocketvlm
