#include "mobile/projection.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "mobile/attention.h"
#include "mobile/positions.h"

namespace pocketvlm {
namespace {

// Depthwise 3 x 3 convolution with padding 1 over [rows * columns, channels].
std::vector<float> depthwise3x3(const Compute& compute,
                                const std::vector<float>& x,
                                std::array<std::int64_t, 2> grid,
                                std::int64_t stride,
                                const std::vector<float>& weight,
                                std::int64_t channels) {
  const auto [rows, columns] = grid;
  const std::int64_t out_rows = (rows - 1) / stride + 1;
  const std::int64_t out_columns = (columns - 1) / stride + 1;
  // [9][channels], so that the inner loop runs over neighbours in memory.
  std::vector<float> taps(weight.size());
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t k = 0; k < 9; ++k)
      taps[static_cast<std::size_t>(k * channels + c)] =
          weight[static_cast<std::size_t>(c * 9 + k)];
  }
  std::vector<float> y(static_cast<std::size_t>(out_rows * out_columns * channels), 0.0F);
  compute.pool.for_pieces(out_rows, 1, [&](std::int64_t out_row, std::int64_t) {
    for (std::int64_t out_column = 0; out_column < out_columns; ++out_column) {
      float* target = &y[static_cast<std::size_t>((out_row * out_columns + out_column) * channels)];
      for (std::int64_t k = 0; k < 9; ++k) {
        const std::int64_t row = out_row * stride + k / 3 - 1;
        const std::int64_t column = out_column * stride + k % 3 - 1;
        if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
        const float* source = &x[static_cast<std::size_t>((row * columns + column) * channels)];
        const float* tap = &taps[static_cast<std::size_t>(k * channels)];
        for (std::int64_t c = 0; c < channels; ++c) target[c] += tap[c] * source[c];
      }
    }
  });
  return y;
}

float hard_sigmoid(float x) { return std::clamp(x + 3.0F, 0.0F, 6.0F) / 6.0F; }

}  // namespace

MobileProjector::MobileProjector(const GgufFile& file,
                                 const MobileProjectorParams& params,
                                 std::int64_t vision_hidden)
    : file_(file), params_(params), vision_hidden_(vision_hidden) {
  if (params.kind == "resampler")
    bind_resampler();
  else
    bind_convolutional();
}

void MobileProjector::bind_resampler() {
  const std::int64_t hidden = params_.hidden;
  const float eps = params_.norm_eps;
  kv_ = MobileLinear(file_, "resampler.kv", vision_hidden_, hidden, false);
  q_proj_ = MobileLinear(file_, "resampler.attn.q", hidden, hidden, true);
  k_proj_ = MobileLinear(file_, "resampler.attn.k", hidden, hidden, true);
  v_proj_ = MobileLinear(file_, "resampler.attn.v", hidden, hidden, true);
  out_proj_ = MobileLinear(file_, "resampler.attn.out", hidden, hidden, true);
  proj_ = MobileLinear(file_, "resampler.proj", hidden, hidden, false);
  norm_q_ = MobileNorm(file_, "resampler.ln_q", hidden, eps, true);
  norm_kv_ = MobileNorm(file_, "resampler.ln_kv", hidden, eps, true);
  norm_post_ = MobileNorm(file_, "resampler.ln_post", hidden, eps, true);
}

void MobileProjector::bind_convolutional() {
  const std::int64_t hidden = params_.hidden;
  if (params_.kind == "mlp") {
    first_ = MobileLinear(file_, "mm.0", vision_hidden_, hidden, true);
    second_ = MobileLinear(file_, "mm.2", hidden, hidden, true);
    return;
  }
  const bool ldp = params_.kind == "ldp";
  first_ =
      MobileLinear(file_, ldp ? "mm.model.mlp.1" : "mm.model.mlp.0", vision_hidden_, hidden, true);
  second_ = MobileLinear(file_, ldp ? "mm.model.mlp.3" : "mm.model.mlp.2", hidden, hidden, true);
  if (!ldp) {
    peg_weight_ = read_vector(file_, "mm.model.peg.0.weight", 9 * hidden);
    peg_bias_ = read_vector(file_, "mm.model.peg.0.bias", hidden);
    return;
  }
  for (int i = 1; i <= 2; ++i) {
    const std::string prefix = fmt::format("mm.model.mb_block.{}.block.", i);
    const std::int64_t squeezed = file_.tensor(prefix + "1.fc1.bias").num_elements();
    InvertedResidual block;
    block.depthwise = read_vector(file_, prefix + "0.0.weight", 9 * hidden);
    block.norm1 = MobileNorm(file_, prefix + "0.1", hidden, params_.norm_eps, true);
    block.squeeze = MobileLinear(file_, prefix + "1.fc1", hidden, squeezed, true);
    block.excite = MobileLinear(file_, prefix + "1.fc2", squeezed, hidden, true);
    block.pointwise = MobileLinear(file_, prefix + "2.0", hidden, hidden, false);
    block.norm2 = MobileNorm(file_, prefix + "2.1", hidden, params_.norm_eps, true);
    blocks_.push_back(std::move(block));
  }
}

std::vector<NamedLinear> MobileProjector::matrices() {
  if (params_.kind == "resampler") {
    return {{"resampler.kv.weight", &kv_},
            {"resampler.attn.k.weight", &k_proj_},
            {"resampler.attn.v.weight", &v_proj_}};
  }
  if (params_.kind == "mlp") return {{"mm.0.weight", &first_}, {"mm.2.weight", &second_}};
  const bool ldp = params_.kind == "ldp";
  return {{ldp ? "mm.model.mlp.1.weight" : "mm.model.mlp.0.weight", &first_},
          {ldp ? "mm.model.mlp.3.weight" : "mm.model.mlp.2.weight", &second_}};
}

std::vector<float> MobileProjector::resample(const Compute& compute,
                                             std::span<const float> features,
                                             std::span<const std::array<int, 2>> grids) const {
  const std::int64_t hidden = params_.hidden;
  const std::int64_t queries = params_.num_queries;
  const auto slices = static_cast<std::int64_t>(grids.size());
  const auto patches = static_cast<std::int64_t>(features.size()) / vision_hidden_;

  std::vector<float> query = read_vector(file_, "resampler.query", queries * hidden);
  norm_q_.forward(compute, query.data(), queries, query.data());
  const auto side =
      static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(queries))));
  std::vector<float> query_table;
  if (params_.positions != "key") {
    // Files of other programs have no such table: the formula gives it, without the rounding of the release.
    query_table = file_.find(kQueryPositionsTensor) != nullptr ? read_vector(file_, kQueryPositionsTensor, queries * hidden)
                                                              : sincos_table(side, side, hidden);
  }
  if (!query_table.empty()) {
    compute.kernels.add_scaled(query_table.data(), 1.0F, queries * hidden, query.data());
  }
  const std::vector<float> one_query = q_proj_.forward(compute, query.data(), queries);
  std::vector<float> q;
  for (std::int64_t s = 0; s < slices; ++s) q.insert(q.end(), one_query.begin(), one_query.end());

  std::vector<float> values = kv_.forward(compute, features.data(), patches);
  norm_kv_.forward(compute, values.data(), patches, values.data());
  std::vector<float> keys = values;
  std::vector<std::int64_t> lengths;
  std::int64_t first = 0;
  for (const auto& [rows, columns] : grids) {
    const std::vector<float> positions =
        params_.positions == "interpolated"
            ? resample_positions(query_table, side, hidden, rows, columns)
            : sincos_table(rows, columns, hidden);
    const std::int64_t count = std::int64_t{rows} * columns;
    compute.kernels.add_scaled(
        positions.data(), 1.0F, count * hidden, &keys[static_cast<std::size_t>(first * hidden)]);
    lengths.push_back(count);
    first += count;
  }
  const std::vector<float> k = k_proj_.forward(compute, keys.data(), patches);
  const std::vector<float> v = v_proj_.forward(compute, values.data(), patches);
  std::vector<float> mixed(q.size());
  mobile_attention(compute,
                   q.data(),
                   k.data(),
                   v.data(),
                   std::vector<std::int64_t>(grids.size(), queries),
                   lengths,
                   params_.num_heads,
                   hidden / params_.num_heads,
                   mixed.data());
  std::vector<float> out = out_proj_.forward(compute, mixed.data(), slices * queries);
  norm_post_.forward(compute, out.data(), slices * queries, out.data());
  return proj_.forward(compute, out.data(), slices * queries);
}

// MobileVLM's inverted residual without expansion: depthwise, norm, hardswish, squeeze-excite,
// pointwise, norm.
std::vector<float> MobileProjector::run_block(const Compute& compute,
                                              const InvertedResidual& block,
                                              const std::vector<float>& x,
                                              std::array<std::int64_t, 2> grid,
                                              std::int64_t stride) const {
  const std::int64_t hidden = params_.hidden;
  std::vector<float> y = depthwise3x3(compute, x, grid, stride, block.depthwise, hidden);
  const auto tokens = static_cast<std::int64_t>(y.size()) / hidden;
  block.norm1.forward(compute, y.data(), tokens, y.data());
  std::vector<float> mean(static_cast<std::size_t>(hidden), 0.0F);
  for (float& value : y) value *= hard_sigmoid(value);
  for (std::int64_t t = 0; t < tokens; ++t) {
    compute.kernels.add_scaled(&y[static_cast<std::size_t>(t * hidden)],
                               1.0F / static_cast<float>(tokens),
                               hidden,
                               mean.data());
  }
  std::vector<float> squeezed = block.squeeze.forward(compute, mean.data(), 1);
  for (float& value : squeezed) value = std::max(value, 0.0F);
  std::vector<float> gate = block.excite.forward(compute, squeezed.data(), 1);
  for (float& value : gate) value = hard_sigmoid(value);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] *= gate[i % static_cast<std::size_t>(hidden)];
  y = block.pointwise.forward(compute, y.data(), tokens);
  block.norm2.forward(compute, y.data(), tokens, y.data());
  return y;
}

// What ldp and ldpv2 do after the two linear layers, for one slice.
std::vector<float> MobileProjector::shrink(const Compute& compute,
                                           std::vector<float> x,
                                           std::array<std::int64_t, 2> grid) const {
  const std::int64_t hidden = params_.hidden;
  if (params_.kind == "ldp") {
    std::vector<float> y = run_block(compute, blocks_[0], x, grid, 1);
    compute.kernels.add_scaled(x.data(), 1.0F, static_cast<std::int64_t>(x.size()), y.data());
    return run_block(compute, blocks_[1], y, grid, 2);
  }
  const std::array<std::int64_t, 2> half = {grid[0] / 2, grid[1] / 2};
  std::vector<float> pooled(static_cast<std::size_t>(half[0] * half[1] * hidden), 0.0F);
  for (std::int64_t r = 0; r < 2 * half[0]; ++r) {
    for (std::int64_t c = 0; c < 2 * half[1]; ++c) {
      compute.kernels.add_scaled(
          &x[static_cast<std::size_t>((r * grid[1] + c) * hidden)],
          0.25F,
          hidden,
          &pooled[static_cast<std::size_t>((r / 2 * half[1] + c / 2) * hidden)]);
    }
  }
  std::vector<float> y = depthwise3x3(compute, pooled, half, 1, peg_weight_, hidden);
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] += pooled[i] + peg_bias_[i % static_cast<std::size_t>(hidden)];
  return y;
}

std::vector<float> MobileProjector::forward(const Compute& compute,
                                            std::span<const float> features,
                                            std::span<const std::array<int, 2>> grids) const {
  std::int64_t patches = 0;
  for (const auto& [rows, columns] : grids) patches += std::int64_t{rows} * columns;
  PV_CHECK(static_cast<std::int64_t>(features.size()) == patches * vision_hidden_,
           "the grids ask for {} patches, but {} features of width {} were given",
           patches,
           static_cast<std::int64_t>(features.size()) / vision_hidden_,
           vision_hidden_);
  if (grids.empty()) return {};
  if (params_.kind == "resampler") return resample(compute, features, grids);
  std::vector<float> wide = first_.forward(compute, features.data(), patches);
  compute.kernels.activate(params_.activation, wide.data(), static_cast<std::int64_t>(wide.size()));
  std::vector<float> x = second_.forward(compute, wide.data(), patches);
  if (params_.kind != "mlp") {
    std::vector<float> all;
    auto begin = x.begin();
    for (const auto& [rows, columns] : grids) {
      const auto end = begin + std::int64_t{rows} * columns * params_.hidden;
      const std::vector<float> one =
          shrink(compute, std::vector<float>(begin, end), {rows, columns});
      all.insert(all.end(), one.begin(), one.end());
      begin = end;
    }
    x = std::move(all);
  }
  const auto tokens = static_cast<std::int64_t>(x.size()) / params_.hidden;
  PV_CHECK(tokens == static_cast<std::int64_t>(grids.size()) * params_.num_queries,
           "{}: {} slices gave {} visual tokens instead of {} each; check pocketvlm.image_config",
           file_.path(),
           grids.size(),
           tokens,
           params_.num_queries);
  return x;
}

}  // namespace pocketvlm
