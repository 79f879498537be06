#pragma once

#include "model/config.h"
#include "model/layers.h"

namespace pocketvlm {

/// SigLIP / CLIP vision transformer over packed patches of many slices (NaViT): block-diagonal attention, no padding.
///   patches   [patches, 3 * patch * patch] float32, all slices one after the other
///   grids     [slices] (rows, columns)
///   returns   [patches, hidden] (no class token)
/// Names: vision_encoder.patch_embedding.{weight [hidden, 3*patch*patch], bias}, .position_embedding [side*side (+1), hidden],
/// .class_embedding [hidden], .pre_norm, .blocks.N.{norm1, attn.{q,k,v,out}_proj, norm2, mlp.{fc1,fc2}}, .final_norm
class VisionEncoderImpl : public torch::nn::Module {
 public:
  VisionEncoderImpl(const VisionConfig& config, int64_t patch_size);
  torch::Tensor forward(const torch::Tensor& patches, const std::vector<std::array<int64_t, 2>>& grids);

 private:
  struct Parts;
  std::shared_ptr<Parts> parts_;
};
TORCH_MODULE(VisionEncoder);

}  // namespace pocketvlm
