#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "mobile/linear.h"
#include "mobile/model.h"

namespace pocketvlm {

/// From the patches of each slice to visual tokens: resampler (MiniCPM-V), mlp (LLaVA), ldp and
/// ldpv2 (MobileVLM), with the weights of an mmproj file, which stay in the mapped file.
class MobileProjector {
 public:
  /// `vision_hidden`: width of what it reads. Throws Error for missing tensors or other sizes.
  MobileProjector(const GgufFile& file,
                  const MobileProjectorParams& params,
                  std::int64_t vision_hidden);

  ///   features  [patches, vision_hidden], all slices one after the other
  ///   grids     (rows, columns) of each slice
  ///   returns   [slices * num_queries, hidden]
  std::vector<float> forward(const Compute& compute,
                             std::span<const float> features,
                             std::span<const std::array<int, 2>> grids) const;

  /// The large matrices and their names, for packing: those that see every patch.
  std::vector<NamedLinear> matrices();

  const MobileProjectorParams& params() const { return params_; }

 private:
  struct InvertedResidual {
    std::vector<float> depthwise;  // [hidden, 9]
    MobileNorm norm1;
    MobileLinear squeeze, excite;
    MobileLinear pointwise;
    MobileNorm norm2;
  };
  void bind_resampler();
  void bind_convolutional();
  std::vector<float> resample(const Compute& compute,
                              std::span<const float> features,
                              std::span<const std::array<int, 2>> grids) const;
  std::vector<float> run_block(const Compute& compute,
                               const InvertedResidual& block,
                               const std::vector<float>& x,
                               std::array<std::int64_t, 2> grid,
                               std::int64_t stride) const;
  std::vector<float> shrink(const Compute& compute,
                            std::vector<float> x,
                            std::array<std::int64_t, 2> grid) const;

  const GgufFile& file_;
  MobileProjectorParams params_;
  std::int64_t vision_hidden_;

  MobileLinear kv_, q_proj_, k_proj_, v_proj_, out_proj_, proj_;  // resampler
  MobileNorm norm_q_, norm_kv_, norm_post_;
  MobileLinear first_, second_;               // the others
  std::vector<InvertedResidual> blocks_;      // ldp
  std::vector<float> peg_weight_, peg_bias_;  // ldpv2
};

}  // namespace pocketvlm
