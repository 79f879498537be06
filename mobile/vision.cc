#include "mobile/vision.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/preprocess/position_buckets.h"
#include "mobile/attention.h"
#include "mobile/positions.h"

namespace pocketvlm {
namespace {

// Rows of the widened MLP that exist at a time, so that ten slices do not need ten times the memory
// of one.
constexpr std::int64_t kMlpRows = 1024;

void add_rows(const Compute& compute, const std::vector<float>& from, std::vector<float>& to) {
  compute.pool.for_pieces(
      static_cast<std::int64_t>(to.size()), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
        compute.kernels.add_scaled(&from[static_cast<std::size_t>(begin)],
                                   1.0F,
                                   end - begin,
                                   &to[static_cast<std::size_t>(begin)]);
      });
}

}  // namespace

MobileVisionEncoder::MobileVisionEncoder(const GgufFile& file, const MobileVisionParams& params)
    : file_(file), params_(params) {
  const std::int64_t hidden = params.hidden;
  patch_embedding_ = MobileLinear::from_tensor(
      file, "v.patch_embd.weight", 3 * params.patch_size * params.patch_size, hidden);
  if (file.find("v.patch_embd.bias") != nullptr)
    patch_bias_ = read_vector(file, "v.patch_embd.bias", hidden);
  if (params.class_token) class_embedding_ = read_vector(file, "v.class_embd", hidden);
  if (params.pre_norm) pre_norm_ = MobileNorm(file, "v.pre_ln", hidden, params.norm_eps, true);
  if (params.final_norm) final_norm_ = MobileNorm(file, "v.post_ln", hidden, params.norm_eps, true);
  for (std::int64_t i = 0; i < params.num_layers; ++i) {
    const std::string prefix = fmt::format("v.blk.{}.", i);
    Block block;
    block.norm1 = MobileNorm(file, prefix + "ln1", hidden, params.norm_eps, true);
    block.q = MobileLinear(file, prefix + "attn_q", hidden, hidden, true);
    block.k = MobileLinear(file, prefix + "attn_k", hidden, hidden, true);
    block.v = MobileLinear(file, prefix + "attn_v", hidden, hidden, true);
    block.out = MobileLinear(file, prefix + "attn_out", hidden, hidden, true);
    block.norm2 = MobileNorm(file, prefix + "ln2", hidden, params.norm_eps, true);
    // Old converters exchanged the names of the two linear layers; the row length tells.
    const bool exchanged =
        file.tensor(prefix + "ffn_down.weight").row_length() == hidden && params.ffn != hidden;
    block.up =
        MobileLinear(file, prefix + (exchanged ? "ffn_down" : "ffn_up"), hidden, params.ffn, true);
    block.down =
        MobileLinear(file, prefix + (exchanged ? "ffn_up" : "ffn_down"), params.ffn, hidden, true);
    blocks_.push_back(std::move(block));
  }
}

std::vector<NamedLinear> MobileVisionEncoder::matrices() {
  std::vector<NamedLinear> all;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    const std::string prefix = fmt::format("v.blk.{}.", i);
    const bool exchanged = file_.tensor(prefix + "ffn_up.weight").row_length() != block.up.in();
    all.push_back({prefix + "attn_q.weight", &block.q});
    all.push_back({prefix + "attn_k.weight", &block.k});
    all.push_back({prefix + "attn_v.weight", &block.v});
    all.push_back({prefix + "attn_out.weight", &block.out});
    all.push_back({prefix + (exchanged ? "ffn_down.weight" : "ffn_up.weight"), &block.up});
    all.push_back({prefix + (exchanged ? "ffn_up.weight" : "ffn_down.weight"), &block.down});
  }
  return all;
}

void MobileVisionEncoder::add_positions(std::span<const std::array<int, 2>> grids, float* x) const {
  const std::int64_t hidden = params_.hidden;
  const std::int64_t side = params_.position_side;
  const GgufTensor& table = file_.tensor(params_.position_table);
  const std::int64_t bytes = row_bytes(table.type, hidden);
  std::vector<float> row(static_cast<std::size_t>(hidden));
  const auto add = [&](const float* values) {
    for (std::int64_t h = 0; h < hidden; ++h) x[h] += values[h];
    x += hidden;
  };
  const auto add_table_row = [&](std::int64_t index) {
    dequantize_row(table.type, table.bytes.data() + index * bytes, hidden, row.data());
    add(row.data());
  };
  const std::int64_t first = params_.class_token ? 1 : 0;
  std::vector<float> whole;
  if (params_.positions == "interpolated") {
    whole = read_floats(file_, params_.position_table);
    whole.erase(whole.begin(), whole.begin() + first * hidden);
  }
  for (const auto& [rows, columns] : grids) {
    if (params_.class_token) add_table_row(0);
    if (params_.positions == "interpolated") {
      const std::vector<float> resized =
          resample_positions_antialiased(whole, side, hidden, rows, columns);
      for (std::int64_t i = 0; i < std::int64_t{rows} * columns; ++i)
        add(&resized[static_cast<std::size_t>(i * hidden)]);
      continue;
    }
    if (params_.positions == "fixed") {
      PV_CHECK(rows == side && columns == side,
               "{}: the vision encoder takes {} x {} patches, but the image has {} x {}; check "
               "pocketvlm.image_config",
               file_.path(),
               side,
               side,
               rows,
               columns);
    }
    const std::vector<std::int64_t> down = position_buckets(rows, side);
    const std::vector<std::int64_t> across = position_buckets(columns, side);
    const bool fixed = params_.positions == "fixed";
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        add_table_row(first + (fixed ? r * side + c
                                     : down[static_cast<std::size_t>(r)] * side +
                                           across[static_cast<std::size_t>(c)]));
      }
    }
  }
}

void MobileVisionEncoder::run_block(const Compute& compute,
                                    const Block& block,
                                    const std::vector<std::int64_t>& lengths,
                                    std::vector<float>& x) const {
  const std::int64_t hidden = params_.hidden;
  const auto tokens = static_cast<std::int64_t>(x.size()) / hidden;
  std::vector<float> normed(x.size());
  {
    block.norm1.forward(compute, x.data(), tokens, normed.data());
    std::vector<float> q(x.size());
    std::vector<float> k(x.size());
    std::vector<float> v(x.size());
    Activations input(compute, normed.data(), tokens, hidden);
    block.q.forward(compute, input, q.data(), hidden);
    block.k.forward(compute, input, k.data(), hidden);
    block.v.forward(compute, input, v.data(), hidden);
    std::vector<float>& mixed = normed;  // no longer needed
    mobile_attention(compute,
                     q.data(),
                     k.data(),
                     v.data(),
                     lengths,
                     lengths,
                     params_.num_heads,
                     hidden / params_.num_heads,
                     mixed.data());
    add_rows(compute, block.out.forward(compute, mixed.data(), tokens), x);
  }
  block.norm2.forward(compute, x.data(), tokens, normed.data());
  for (std::int64_t begin = 0; begin < tokens; begin += kMlpRows) {
    const std::int64_t count = std::min(kMlpRows, tokens - begin);
    std::vector<float> wide =
        block.up.forward(compute, &normed[static_cast<std::size_t>(begin * hidden)], count);
    compute.pool.for_pieces(count, 16, [&](std::int64_t first, std::int64_t last) {
      compute.kernels.activate(params_.activation,
                               &wide[static_cast<std::size_t>(first * params_.ffn)],
                               (last - first) * params_.ffn);
    });
    const std::vector<float> narrow = block.down.forward(compute, wide.data(), count);
    compute.kernels.add_scaled(
        narrow.data(), 1.0F, count * hidden, &x[static_cast<std::size_t>(begin * hidden)]);
  }
}

std::int64_t MobileVisionEncoder::strip_length(std::span<const std::array<int, 2>> grids) const {
  std::int64_t longest = 0;
  if (params_.positions != "strips") return longest;
  for (const auto& [rows, columns] : grids)
    longest = std::max(longest, std::int64_t{rows} * columns);
  return longest;
}

std::vector<float> MobileVisionEncoder::forward(const Compute& compute,
                                                std::span<const float> patches,
                                                std::span<const std::array<int, 2>> grids,
                                                std::int64_t strip) const {
  if (strip == 0) return encode(compute, patches, grids);
  const auto row = static_cast<std::size_t>(patch_embedding_.in());
  const auto width = static_cast<std::size_t>(strip) * row;
  std::vector<float> padded(grids.size() * width, 0.0F);
  std::size_t at = 0;
  for (std::size_t s = 0; s < grids.size(); ++s) {
    const std::size_t count = static_cast<std::size_t>(grids[s][0]) * static_cast<std::size_t>(grids[s][1]) * row;
    PV_CHECK(count <= width && at + count <= patches.size(),
             "a slice of {} x {} patches does not fit into a strip of {}",
             grids[s][0],
             grids[s][1],
             strip);
    std::copy_n(patches.begin() + static_cast<std::ptrdiff_t>(at),
                count,
                padded.begin() + static_cast<std::ptrdiff_t>(s * width));
    at += count;
  }
  PV_CHECK(at == patches.size(), "the grids ask for {} values of patches, but {} were given", at, patches.size());
  const std::vector<std::array<int, 2>> strips(grids.size(), {1, static_cast<int>(strip)});
  const std::vector<float> all = encode(compute, padded, strips);
  std::vector<float> kept;
  kept.reserve(at / row * static_cast<std::size_t>(params_.hidden));
  for (std::size_t s = 0; s < grids.size(); ++s) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(s) * strip * params_.hidden;
    kept.insert(kept.end(), begin, begin + std::int64_t{grids[s][0]} * grids[s][1] * params_.hidden);
  }
  return kept;
}

std::vector<float> MobileVisionEncoder::encode(const Compute& compute,
                                               std::span<const float> patches,
                                               std::span<const std::array<int, 2>> grids) const {
  const std::int64_t hidden = params_.hidden;
  const std::int64_t extra = params_.class_token ? 1 : 0;
  std::vector<std::int64_t> lengths;
  std::int64_t num_patches = 0;
  for (const auto& [rows, columns] : grids) {
    num_patches += std::int64_t{rows} * columns;
    lengths.push_back(std::int64_t{rows} * columns + extra);
  }
  PV_CHECK(static_cast<std::int64_t>(patches.size()) == num_patches * patch_embedding_.in(),
           "the grids ask for {} patches of {} values, but {} values were given",
           num_patches,
           patch_embedding_.in(),
           patches.size());
  const std::vector<float> embedded =
      patch_embedding_.forward(compute, patches.data(), num_patches);
  std::vector<float> x;
  x.reserve(static_cast<std::size_t>(
      (num_patches + extra * static_cast<std::int64_t>(grids.size())) * hidden));
  const float* source = embedded.data();
  for (const std::int64_t length : lengths) {
    if (params_.class_token) x.insert(x.end(), class_embedding_.begin(), class_embedding_.end());
    for (std::int64_t p = extra; p < length; ++p, source += hidden) {
      x.insert(x.end(), source, source + hidden);
      if (patch_bias_.empty()) continue;
      float* row = &x[x.size() - static_cast<std::size_t>(hidden)];
      for (std::int64_t h = 0; h < hidden; ++h) row[h] += patch_bias_[static_cast<std::size_t>(h)];
    }
  }
  add_positions(grids, x.data());
  const auto tokens = static_cast<std::int64_t>(x.size()) / hidden;
  if (params_.pre_norm) pre_norm_.forward(compute, x.data(), tokens, x.data());
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    run_block(compute, blocks_[i], lengths, x);
    if (compute.watcher != nullptr) (*compute.watcher)(fmt::format("v.blk.{}", i), x);
  }
  if (params_.final_norm) final_norm_.forward(compute, x.data(), tokens, x.data());
  if (!params_.class_token) return x;
  std::vector<float> without;
  without.reserve(static_cast<std::size_t>(num_patches * hidden));
  auto row = x.begin();
  for (const std::int64_t length : lengths) {
    without.insert(without.end(), row + hidden, row + length * hidden);
    row += length * hidden;
  }
  return without;
}

}  // namespace pocketvlm
