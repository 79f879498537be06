#include "model/vision_encoder.h"

#include <ATen/ops/_upsample_bicubic2d_aa.h>

#include <map>

#include "base/error.h"
#include "data/preprocess/position_buckets.h"
#include "model/attention.h"
#include "model/block_runner.h"
#include "model/fused_ops.h"
#include "model/row_padding.h"

namespace pocketvlm {
namespace {

using Grid = std::array<int64_t, 2>;

torch::Tensor activate(const torch::Tensor& x, const std::string& activation) {
  if (activation == "gelu_tanh") return gelu_tanh(x);
  if (activation == "gelu_erf") return at::gelu(x, "none");
  TORCH_INTERNAL_ASSERT(activation == "quick_gelu");
  return quick_gelu(x);
}

/// Rows of the position table for one grid, [rows * columns] int64.
torch::Tensor bucketed_ids(const Grid& grid, int64_t side) {
  const torch::Tensor rows = torch::tensor(position_buckets(grid[0], side), torch::kInt64);
  const torch::Tensor columns = torch::tensor(position_buckets(grid[1], side), torch::kInt64);
  return (rows.unsqueeze(1) * side + columns.unsqueeze(0)).flatten();
}

class Attention : public torch::nn::Module {
 public:
  Attention(int64_t hidden, int64_t num_heads) : num_heads_(num_heads) {
    q_proj = register_module("q_proj", Linear(hidden, hidden, true));
    k_proj = register_module("k_proj", Linear(hidden, hidden, true));
    v_proj = register_module("v_proj", Linear(hidden, hidden, true));
    out_proj = register_module("out_proj", Linear(hidden, hidden, true));
  }

  torch::Tensor forward(const torch::Tensor& x, const std::vector<int64_t>& lengths) {
    const torch::Tensor qkv =
        linear_group(x, {q_proj.get(), k_proj.get(), v_proj.get()}).unflatten(1, {3 * num_heads_, -1});
    return out_proj->forward(packed_attention(qkv, num_heads_, nullptr, lengths, /*causal=*/false));
  }

 private:
  int64_t num_heads_;
  Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, out_proj{nullptr};
};

class Mlp : public torch::nn::Module {
 public:
  explicit Mlp(const VisionConfig& config) : activation_(config.activation) {
    fc1 = register_module("fc1", Linear(config.hidden, config.ffn, true));
    fc2 = register_module("fc2", Linear(config.ffn, config.hidden, true));
  }
  torch::Tensor forward(const torch::Tensor& x) { return fc2->forward(activate(fc1->forward(x), activation_)); }

 private:
  std::string activation_;
  Linear fc1{nullptr}, fc2{nullptr};
};

class Block : public torch::nn::Module {
 public:
  explicit Block(const VisionConfig& config) {
    norm1_ = register_module("norm1", LayerNorm(config.hidden, config.norm_eps));
    attention_ = register_module("attn", std::make_shared<Attention>(config.hidden, config.num_heads));
    norm2_ = register_module("norm2", LayerNorm(config.hidden, config.norm_eps));
    mlp_ = register_module("mlp", std::make_shared<Mlp>(config));
  }

  /// x [patches, hidden] float32, the residual stream.
  torch::Tensor forward(const torch::Tensor& x, const std::vector<int64_t>& lengths) {
    const torch::Tensor attended = attention_->forward(norm1_->forward(x), lengths);
    const NormedSum middle =
        add_norm(x, attended, 1.0, norm2_->weight, norm2_->bias, norm2_->eps(), compute_dtype());
    return add_branch(middle.sum, mlp_->forward(middle.normed), 1.0);
  }

 private:
  LayerNorm norm1_{nullptr}, norm2_{nullptr};
  std::shared_ptr<Attention> attention_;
  std::shared_ptr<Mlp> mlp_;
};

}  // namespace

struct VisionEncoderImpl::Parts {
  VisionConfig config;
  Linear patch_embedding{nullptr};
  torch::Tensor position_embedding;
  torch::Tensor class_embedding;
  LayerNorm pre_norm{nullptr};
  std::vector<std::shared_ptr<Block>> blocks;
  LayerNorm final_norm{nullptr};
  std::map<Grid, torch::Tensor> bucket_ids;  // computed once a grid

  torch::Tensor positions(const std::vector<Grid>& grids);
  torch::Tensor interpolated(const Grid& grid) const;
};

VisionEncoderImpl::VisionEncoderImpl(const VisionConfig& config, int64_t patch_size)
    : parts_(std::make_shared<Parts>()) {
  Parts& parts = *parts_;
  parts.config = config;
  const int64_t table = config.position_side * config.position_side + (config.class_token ? 1 : 0);
  parts.patch_embedding = register_module(
      "patch_embedding", Linear(3 * patch_size * patch_size, config.hidden, config.patch_bias));
  parts.position_embedding = register_parameter("position_embedding", new_parameter({table, config.hidden}));
  if (config.class_token) {
    parts.class_embedding = register_parameter("class_embedding", new_parameter({config.hidden}));
  }
  if (config.pre_norm) parts.pre_norm = register_module("pre_norm", LayerNorm(config.hidden, config.norm_eps));
  const auto blocks = register_module("blocks", std::make_shared<torch::nn::Module>("Blocks"));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    parts.blocks.push_back(blocks->register_module(std::to_string(i), std::make_shared<Block>(config)));
  }
  if (config.final_norm) {
    parts.final_norm = register_module("final_norm", LayerNorm(config.hidden, config.norm_eps));
  }
}

torch::Tensor VisionEncoderImpl::Parts::interpolated(const Grid& grid) const {
  const int64_t side = config.position_side;
  if (grid[0] == side && grid[1] == side) return position_embedding;
  const torch::Tensor table =
      position_embedding.view({1, side, side, config.hidden}).permute({0, 3, 1, 2}).contiguous();
  const torch::Tensor resized =
      at::_upsample_bicubic2d_aa(table, {grid[0], grid[1]}, /*align_corners=*/false, std::nullopt, std::nullopt);
  return resized.permute({0, 2, 3, 1}).reshape({grid[0] * grid[1], config.hidden});
}

/// [patches, hidden] float32 for all slices.
torch::Tensor VisionEncoderImpl::Parts::positions(const std::vector<Grid>& grids) {
  std::vector<torch::Tensor> rows;
  rows.reserve(grids.size());
  if (config.positions == "bucketed") {
    for (const Grid& grid : grids) {
      torch::Tensor& ids = bucket_ids[grid];
      if (!ids.defined()) ids = bucketed_ids(grid, config.position_side);
      ids = ids.to(position_embedding.device());  // the model may have moved since
      rows.push_back(ids);
    }
    return position_embedding.index_select(0, torch::cat(rows));
  }
  if (config.positions == "interpolated") {
    std::map<Grid, torch::Tensor> resized;  // equal grids share one interpolation
    for (const Grid& grid : grids) {
      torch::Tensor& table = resized[grid];
      if (!table.defined()) table = interpolated(grid);
      rows.push_back(table);
    }
    return torch::cat(rows);
  }
  const int64_t side = config.position_side;
  for (const Grid& grid : grids) {
    PV_CHECK(grid[0] == side && grid[1] == side,
             "vision encoder: an image of {} x {} patches, but vision.positions = \"fixed\" takes {} x {} only; "
             "check image.mode and image.image_size",
             grid[0],
             grid[1],
             side,
             side);
  }
  const torch::Tensor table = config.class_token ? position_embedding.narrow(0, 1, side * side) : position_embedding;
  return table.repeat({static_cast<int64_t>(grids.size()), 1});
}

torch::Tensor VisionEncoderImpl::forward(const torch::Tensor& patches, const std::vector<Grid>& grids) {
  Parts& parts = *parts_;
  std::vector<int64_t> lengths;
  int64_t total = 0;
  for (const Grid& grid : grids) {
    PV_CHECK(grid[0] > 0 && grid[1] > 0, "vision encoder: a slice of {} x {} patches", grid[0], grid[1]);
    lengths.push_back(grid[0] * grid[1]);
    total += lengths.back();
  }
  PV_CHECK(patches.dim() == 2 && patches.size(0) == total,
           "vision encoder: {} rows of patches, but the grids add up to {}",
           patches.dim() == 2 ? patches.size(0) : -1,
           total);
  torch::Tensor x = add_branch(parts.positions(grids), parts.patch_embedding->forward(patches), 1.0);
  const auto slices = static_cast<int64_t>(grids.size());
  if (parts.config.class_token) {  // all slices have one size: positions are fixed
    const torch::Tensor token = (parts.class_embedding + parts.position_embedding[0]).expand({slices, 1, -1});
    x = torch::cat({token, x.view({slices, lengths.front(), -1})}, 1).flatten(0, 1);
    for (int64_t& length : lengths) ++length;
  }
  if (parts.pre_norm) x = parts.pre_norm->forward(x).to(torch::kFloat32);
  const int64_t tokens = x.size(0), padding = missing_rows(x, tokens);
  if (padding > 0) {
    x = with_zero_rows(x, padding);
    lengths.push_back(padding);
  }
  for (const auto& block : parts.blocks) {
    x = run_block(*block, x, [block, lengths](const torch::Tensor& input) { return block->forward(input, lengths); });
  }
  x = x.narrow(0, 0, tokens);
  if (parts.config.class_token) {
    x = x.view({slices, lengths.front(), -1}).narrow(1, 1, lengths.front() - 1).flatten(0, 1);
  }
  return parts.final_norm ? parts.final_norm->forward(x) : x.to(compute_dtype());
}

}  // namespace pocketvlm
