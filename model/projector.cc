#include "model/projector.h"

#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/upsample_bicubic2d.h>

#include <cmath>
#include <map>

#include "base/error.h"
#include "model/attention.h"

namespace pocketvlm {
namespace {

using Grid = std::array<int64_t, 2>;

/// Neighbouring slices of one grid.
struct GridRun {
  Grid grid;
  int64_t count;
};

std::vector<GridRun> find_runs(const std::vector<Grid>& grids) {
  std::vector<GridRun> runs;
  for (const Grid& grid : grids) {
    if (!runs.empty() && runs.back().grid == grid) {
      ++runs.back().count;
    } else {
      runs.push_back({grid, 1});
    }
  }
  return runs;
}

std::vector<int64_t> patch_counts(const std::vector<GridRun>& runs) {
  std::vector<int64_t> counts;
  for (const GridRun& run : runs) counts.push_back(run.count * run.grid[0] * run.grid[1]);
  return counts;
}

torch::Tensor joined(const std::vector<torch::Tensor>& parts) {
  return parts.size() == 1 ? parts.front() : torch::cat(parts);
}

void check_features(const torch::Tensor& features, const std::vector<Grid>& grids) {
  int64_t patches = 0;
  for (const Grid& grid : grids) patches += grid[0] * grid[1];
  PV_CHECK(features.dim() == 2 && features.size(0) == patches,
           "projector: features of {} patches, but the grids add up to {}",
           features.size(0),
           patches);
}

/// Cross-attention of the resampler with the four projections.
class ResamplerAttention : public torch::nn::Module {
 public:
  ResamplerAttention(int64_t hidden, int64_t num_heads) : num_heads_(num_heads) {
    q_proj = register_module("q_proj", Linear(hidden, hidden, true));
    k_proj = register_module("k_proj", Linear(hidden, hidden, true));
    v_proj = register_module("v_proj", Linear(hidden, hidden, true));
    out_proj = register_module("out_proj", Linear(hidden, hidden, true));
  }

  /// query [queries, hidden], key and value [patches, hidden] -> [slices * queries, hidden]
  torch::Tensor forward(const torch::Tensor& query,
                        const torch::Tensor& key,
                        const torch::Tensor& value,
                        const std::vector<Grid>& grids) {
    const auto heads = [&](const torch::Tensor& x) { return x.unflatten(1, {num_heads_, -1}); };
    std::vector<int64_t> patches;
    for (const Grid& grid : grids) patches.push_back(grid[0] * grid[1]);
    // Every slice asks the same questions: they are projected once.
    const torch::Tensor q = heads(q_proj->forward(query)).repeat({static_cast<int64_t>(grids.size()), 1, 1});
    return out_proj->forward(cross_attention(q,
                                             heads(k_proj->forward(key)),
                                             heads(v_proj->forward(value)),
                                             std::vector<int64_t>(grids.size(), query.size(0)),
                                             patches));
  }

 private:
  int64_t num_heads_;
  Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, out_proj{nullptr};
};

class Resampler : public ProjectorImpl {
 public:
  Resampler(const ProjectorConfig& config, int64_t vision_hidden, int64_t hidden)
      : config_(config), hidden_(hidden) {
    query_ = register_parameter("query", new_parameter({config.num_queries, hidden}));
    kv_proj_ = register_module("kv_proj", Linear(vision_hidden, hidden, false));
    norm_q_ = register_module("norm_q", LayerNorm(hidden, config.norm_eps));
    norm_kv_ = register_module("norm_kv", LayerNorm(hidden, config.norm_eps));
    attention_ = register_module("attn", std::make_shared<ResamplerAttention>(hidden, config.num_heads));
    norm_post_ = register_module("norm_post", LayerNorm(hidden, config.norm_eps));
    proj_ = register_parameter("proj", new_parameter({hidden, hidden}));
    query_side_ = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(config.num_queries))));
    if (config.positions != "key") {
      query_positions_ = register_buffer("query_positions", sincos_positions(query_side_, query_side_, hidden));
    }
  }

  torch::Tensor forward(const torch::Tensor& features, const std::vector<Grid>& grids) override {
    check_features(features, grids);
    const torch::Tensor x = norm_kv_->forward(kv_proj_->forward(features));
    std::vector<torch::Tensor> positions;
    for (const Grid& grid : grids) positions.push_back(key_positions(grid, x));
    torch::Tensor query = norm_q_->forward(query_);
    if (config_.positions != "key") {
      query = query + query_positions_.to(x.scalar_type());
    }
    const torch::Tensor out = attention_->forward(query, x + joined(positions), x, grids);
    return torch::mm(norm_post_->forward(out), compute_weight(proj_));
  }

 private:
  /// Positions of one grid in the activations' dtype, computed once a grid.
  torch::Tensor key_positions(const Grid& grid, const torch::Tensor& like) {
    torch::Tensor& kept = positions_[grid];
    if (!kept.defined()) {
      if (config_.positions == "interpolated") {
        const torch::Tensor table =
            query_positions_.view({1, query_side_, query_side_, hidden_}).permute({0, 3, 1, 2});
        kept = at::upsample_bicubic2d(table, {grid[0], grid[1]}, /*align_corners=*/false)
                   .permute({0, 2, 3, 1})
                   .reshape({grid[0] * grid[1], hidden_});
      } else {
        kept = sincos_positions(grid[0], grid[1], hidden_);
      }
    }
    kept = kept.to(like.device());
    return kept.to(like.scalar_type());
  }

  ProjectorConfig config_;
  int64_t hidden_;
  int64_t query_side_;
  torch::Tensor query_;            // [queries, hidden]
  torch::Tensor query_positions_;  // [queries, hidden]; a release holds them rounded to its dtype
  Linear kv_proj_{nullptr};
  LayerNorm norm_q_{nullptr}, norm_kv_{nullptr}, norm_post_{nullptr};
  std::shared_ptr<ResamplerAttention> attention_;
  torch::Tensor proj_;  // [hidden, hidden], applied from the right
  std::map<Grid, torch::Tensor> positions_;
};

/// Linear, exact GELU, Linear; the layers are numbered as in LLaVA's checkpoints.
class TwoLayers : public torch::nn::Module {
 public:
  TwoLayers(int64_t vision_hidden, int64_t hidden) {
    first_ = register_module("0", Linear(vision_hidden, hidden, true));
    second_ = register_module("2", Linear(hidden, hidden, true));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return second_->forward(at::gelu(first_->forward(x), "none"));
  }

 private:
  Linear first_{nullptr}, second_{nullptr};
};

class MlpProjector : public ProjectorImpl {
 public:
  MlpProjector(const ProjectorConfig& config, int64_t vision_hidden, int64_t hidden)
      : num_queries_(config.num_queries) {
    mlp_ = register_module("mlp", std::make_shared<TwoLayers>(vision_hidden, hidden));
  }
  torch::Tensor forward(const torch::Tensor& features, const std::vector<Grid>& grids) override {
    check_features(features, grids);
    for (const Grid& grid : grids) {
      PV_CHECK(grid[0] * grid[1] == num_queries_,
               "projector: a slice of {} x {} patches does not give projector.num_queries = {} tokens; kind "
               "\"mlp\" makes one token a patch",
               grid[0],
               grid[1],
               num_queries_);
    }
    return mlp_->forward(features);
  }

 private:
  int64_t num_queries_;
  std::shared_ptr<TwoLayers> mlp_;
};

/// 3 x 3 convolution of each channel by itself, padded by one. x [slices, hidden, rows, columns].
class Depthwise : public torch::nn::Module {
 public:
  Depthwise(int64_t hidden, int64_t stride, bool with_bias) : stride_(stride) {
    weight_ = register_parameter("weight", new_parameter({hidden, 1, 3, 3}));
    if (with_bias) bias_ = register_parameter("bias", new_parameter({hidden}));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return at::conv2d(x,
                      compute_weight(weight_),
                      bias_.defined() ? compute_weight(bias_) : torch::Tensor(),
                      {stride_, stride_},
                      {1, 1},
                      {1, 1},
                      weight_.size(0));
  }

 private:
  int64_t stride_;
  torch::Tensor weight_, bias_;
};

void check_pooled(const Grid& grid, int64_t num_queries) {
  PV_CHECK(grid[0] % 2 == 0 && grid[1] % 2 == 0 && grid[0] * grid[1] == 4 * num_queries,
           "projector: a slice of {} x {} patches does not give projector.num_queries = {} tokens; 2 x 2 patches "
           "make one, so both sides must be even and rows * columns = {}",
           grid[0],
           grid[1],
           num_queries,
           4 * num_queries);
}

/// The two MobileVLM projectors: an MLP on patches, then a convolutional part on the grid of each slice.
class GridProjector : public ProjectorImpl {
 public:
  GridProjector(const ProjectorConfig& config, int64_t vision_hidden, int64_t hidden)
      : num_queries_(config.num_queries) {
    mlp_ = register_module("mlp", std::make_shared<TwoLayers>(vision_hidden, hidden));
  }

  torch::Tensor forward(const torch::Tensor& features, const std::vector<Grid>& grids) override {
    check_features(features, grids);
    for (const Grid& grid : grids) check_pooled(grid, num_queries_);
    const std::vector<GridRun> runs = find_runs(grids);
    const auto parts = mlp_->forward(features).split_with_sizes(patch_counts(runs));
    std::vector<torch::Tensor> outputs;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const torch::Tensor image =
          parts[i].unflatten(0, {runs[i].count, runs[i].grid[0], runs[i].grid[1]}).permute({0, 3, 1, 2});
      outputs.push_back(reduce(image).permute({0, 2, 3, 1}).flatten(0, 2));
    }
    return joined(outputs);
  }

 protected:
  /// [slices, hidden, rows, columns] -> [slices, hidden, rows / 2, columns / 2]
  virtual torch::Tensor reduce(const torch::Tensor& image) = 0;

 private:
  int64_t num_queries_;
  std::shared_ptr<TwoLayers> mlp_;
};

class Ldpv2 : public GridProjector {
 public:
  Ldpv2(const ProjectorConfig& config, int64_t vision_hidden, int64_t hidden)
      : GridProjector(config, vision_hidden, hidden) {
    peg_ = register_module("peg", std::make_shared<Depthwise>(hidden, 1, true));
  }

 protected:
  torch::Tensor reduce(const torch::Tensor& image) override {
    const torch::Tensor pooled = at::avg_pool2d(image, {2, 2});
    return pooled + peg_->forward(pooled);
  }

 private:
  std::shared_ptr<Depthwise> peg_;
};

/// Squeeze-and-excitation: a gate per channel from the mean over the grid. x [slices, rows, columns, hidden].
class Squeeze : public torch::nn::Module {
 public:
  explicit Squeeze(int64_t hidden) {
    const int64_t inner = ldp_squeeze_channels(hidden);
    fc1_ = register_module("fc1", Linear(hidden, inner, true));
    fc2_ = register_module("fc2", Linear(inner, hidden, true));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor mean = x.mean({1, 2});
    const torch::Tensor gate = at::hardsigmoid(fc2_->forward(at::relu(fc1_->forward(mean))));
    return x * gate.unsqueeze(1).unsqueeze(1);
  }

 private:
  Linear fc1_{nullptr}, fc2_{nullptr};
};

/// Depthwise, norm, hardswish, squeeze-and-excitation, pointwise, norm. The paper's equation 3 leaves out squeeze and
/// hardswish; the released weights have them.
class LdpBlock : public torch::nn::Module {
 public:
  LdpBlock(int64_t hidden, int64_t stride) {
    constexpr double kEps = 1e-5;
    depthwise_ = register_module("depthwise", std::make_shared<Depthwise>(hidden, stride, false));
    norm1_ = register_module("norm1", LayerNorm(hidden, kEps));
    squeeze_ = register_module("se", std::make_shared<Squeeze>(hidden));
    pointwise_ = register_module("pointwise", Linear(hidden, hidden, false));
    norm2_ = register_module("norm2", LayerNorm(hidden, kEps));
  }
  torch::Tensor forward(const torch::Tensor& image) {
    torch::Tensor x = depthwise_->forward(image).permute({0, 2, 3, 1});
    x = at::hardswish(normed(norm1_, x));
    return normed(norm2_, pointwise_->forward(squeeze_->forward(x))).permute({0, 3, 1, 2});
  }

 private:
  static torch::Tensor normed(LayerNorm& norm, const torch::Tensor& x) {
    return norm->forward(x.reshape({-1, x.size(3)})).view(x.sizes());
  }

  std::shared_ptr<Depthwise> depthwise_;
  std::shared_ptr<Squeeze> squeeze_;
  Linear pointwise_{nullptr};
  LayerNorm norm1_{nullptr}, norm2_{nullptr};
};

class Ldp : public GridProjector {
 public:
  Ldp(const ProjectorConfig& config, int64_t vision_hidden, int64_t hidden)
      : GridProjector(config, vision_hidden, hidden) {
    const auto blocks = register_module("blocks", std::make_shared<torch::nn::Module>("Blocks"));
    full_ = blocks->register_module("0", std::make_shared<LdpBlock>(hidden, 1));
    half_ = blocks->register_module("1", std::make_shared<LdpBlock>(hidden, 2));
  }

 protected:
  torch::Tensor reduce(const torch::Tensor& image) override { return half_->forward(full_->forward(image) + image); }

 private:
  std::shared_ptr<LdpBlock> full_, half_;
};

}  // namespace

torch::Tensor sincos_positions(int64_t rows, int64_t columns, int64_t hidden) {
  TORCH_INTERNAL_ASSERT(hidden % 4 == 0);
  const int64_t quarter = hidden / 4;
  const auto options = torch::TensorOptions().dtype(torch::kFloat32);
  const torch::Tensor frequencies =
      1.0 / torch::pow(10000.0, torch::arange(quarter, options) / static_cast<double>(quarter));
  const auto waves = [&](int64_t count) {
    const torch::Tensor angles = torch::arange(count, options).unsqueeze(1) * frequencies.unsqueeze(0);
    return torch::cat({angles.sin(), angles.cos()}, 1);  // [count, hidden / 2]
  };
  const torch::Tensor by_column = waves(columns).unsqueeze(0).expand({rows, columns, 2 * quarter});
  const torch::Tensor by_row = waves(rows).unsqueeze(1).expand({rows, columns, 2 * quarter});
  return torch::cat({by_column, by_row}, 2).reshape({rows * columns, hidden});
}

std::shared_ptr<ProjectorImpl> make_projector(const ProjectorConfig& config, int64_t vision_hidden, int64_t hidden) {
  if (config.kind == "resampler") return std::make_shared<Resampler>(config, vision_hidden, hidden);
  if (config.kind == "mlp") return std::make_shared<MlpProjector>(config, vision_hidden, hidden);
  if (config.kind == "ldp") return std::make_shared<Ldp>(config, vision_hidden, hidden);
  TORCH_INTERNAL_ASSERT(config.kind == "ldpv2");
  return std::make_shared<Ldpv2>(config, vision_hidden, hidden);
}

}  // namespace pocketvlm
