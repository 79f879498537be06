#pragma once

#include "model/config.h"
#include "model/layers.h"

namespace pocketvlm {

/// What turns the patches of each slice into `num_queries` visual tokens.
///   features  [patches, vision_hidden], all slices one after the other
///   grids     [slices] (rows, columns); sums to `patches`
///   returns   [slices * num_queries, hidden]
/// Names: resampler (MiniCPM-V report 3.2): projector.query [queries, hidden], .kv_proj.weight, .norm_q, .norm_kv,
///   .attn.{q,k,v,out}_proj.{weight,bias}, .norm_post, .proj [hidden, hidden] (y = x @ proj)
/// mlp: projector.mlp.{0,2}.{weight,bias}; ldpv2: + projector.peg.{weight [hidden,1,3,3], bias}
/// ldp: + projector.blocks.{0,1}.{depthwise.weight, norm1, se.fc1, se.fc2, pointwise.weight, norm2}
class ProjectorImpl : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(const torch::Tensor& features,
                                const std::vector<std::array<int64_t, 2>>& grids) = 0;
};

std::shared_ptr<ProjectorImpl> make_projector(const ProjectorConfig& config,
                                              int64_t vision_hidden,
                                              int64_t hidden);

/// 2-D sin-cos positions of MiniCPM-V: first half of the channels encodes the column, second half the row; each half is
/// sines then cosines. [rows * columns, hidden], float32.
torch::Tensor sincos_positions(int64_t rows, int64_t columns, int64_t hidden);

}  // namespace pocketvlm
