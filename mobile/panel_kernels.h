#pragma once

#include <cstdint>

#include "mobile/kernels.h"
#include "mobile/kernels_simd.h"
#include "mobile/unpack_blocks.h"

/// Products of quantized weights with many input rows. As many weight rows as a vector has lanes
/// are unpacked once into a panel (four neighbouring levels of every row side by side), which then
/// meets all input rows: no horizontal sums, one scale vector for 32 columns. Written once over an
/// instruction set I:
///   kRows lanes, kTokens input rows at a time, kSignedLevels (Q8_0 levels as int8 instead of +
///   128), Int, Float, Levels zero_int, load_levels, dot<Block>(sum, levels, four input bytes),
///   to_float, zero, set1, load, fma, mul, store, store_part
/// Included by files with different instruction sets, hence internal linkage.
namespace pocketvlm {
namespace {

// Q6_K has a scale for 16 levels, the others for 32.
template <typename Block>
constexpr int kScaleHalves = 1;
template <>
constexpr int kScaleHalves<BlockQ6_K> = 2;

// 32 columns of kRows weight rows.
template <typename I, typename Block>
struct alignas(64) PanelBlock {
  std::uint8_t levels[8][I::kRows][4];
  float scale[kScaleHalves<Block>][I::kRows];
  float offset[kScaleHalves<Block>][I::kRows];
};

template <typename I, typename Block>
void fill_panel(const WeightRows& weights,
                std::int64_t first,
                std::int64_t rows,
                std::int64_t columns,
                PanelBlock<I, Block>* panel) {
  constexpr int kGroups = Block::kElements / 32;
  constexpr int kHalves = kScaleHalves<Block>;
  // Rows beyond the last one repeat it; their results are not stored.
  for (int r = 0; r < I::kRows; ++r) {
    const std::int64_t row = r < rows ? first + r : first + rows - 1;
    const auto* source = static_cast<const std::uint8_t*>(weights.data) + row * weights.row_bytes;
    for (std::int64_t b = 0; b < columns / Block::kElements; ++b) {
      Block block;
      __builtin_memcpy(
          &block, source + b * static_cast<std::int64_t>(sizeof(Block)), sizeof(Block));
      Unpacked<Block> unpacked;
      unpack(block, unpacked);
      if constexpr (I::kSignedLevels && sizeof(Block) == sizeof(BlockQ8_0)) {
        for (int e = 0; e < Block::kElements; ++e)
          unpacked.levels[e] = static_cast<std::uint8_t>(unpacked.levels[e] ^ 0x80);
        unpacked.offset[0] = 0.0F;
      }
      for (int g = 0; g < kGroups; ++g) {
        PanelBlock<I, Block>& target = panel[b * kGroups + g];
        for (int k = 0; k < 8; ++k)
          __builtin_memcpy(target.levels[k][r], unpacked.levels + 32 * g + 4 * k, 4);
        for (int h = 0; h < kHalves; ++h) {
          target.scale[h][r] = unpacked.scale[2 * g + h];
          target.offset[h][r] = unpacked.offset[2 * g + h];
        }
      }
    }
  }
}

template <typename I, typename Block, int kTokens>
void panel_tokens(const PanelBlock<I, Block>* panel,
                  const MatmulInput& input,
                  std::int64_t token,
                  std::int64_t rows,
                  float* y,
                  std::int64_t y_stride) {
  constexpr int kHalves = kScaleHalves<Block>;
  constexpr int kSteps = 8 / kHalves;
  typename I::Float sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = I::zero();
  const std::int64_t blocks = input.columns / 32;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const PanelBlock<I, Block>& block = panel[b];
    for (int h = 0; h < kHalves; ++h) {
      typename I::Levels levels[kSteps];
#pragma GCC unroll 8
      for (int k = 0; k < kSteps; ++k) levels[k] = I::load_levels(block.levels[h * kSteps + k][0]);
      const typename I::Float scale = I::load(block.scale[h]);
      const typename I::Float offset = I::load(block.offset[h]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const std::int8_t* x = input.quants + (token + t) * input.columns + 32 * b + 4 * h * kSteps;
        typename I::Int dot = I::zero_int();
#pragma GCC unroll 8
        for (int k = 0; k < kSteps; ++k) dot = I::template dot<Block>(dot, levels[k], x + 4 * k);
        const std::int64_t at = (token + t) * blocks + b;
        const float constant = kHalves == 1 ? input.sums32[at] : input.sums16[2 * at + h];
        const typename I::Float product = I::mul(scale, I::set1(input.scales[at]));
        sums[t] = I::fma(I::to_float(dot), product, sums[t]);
        sums[t] = I::fma(offset, I::set1(constant), sums[t]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    if (rows == I::kRows)
      I::store(y + t * y_stride, sums[t]);
    else
      I::store_part(y + t * y_stride, sums[t], rows);
  }
}

template <typename I, typename Block>
void panel_matmul(const WeightRows& weights,
                  const MatmulInput& input,
                  float* y,
                  std::int64_t y_stride) {
  using Panel = PanelBlock<I, Block>;
  auto* panel = static_cast<Panel*>(
      panel_scratch(static_cast<std::size_t>(input.columns / 32) * sizeof(Panel)));
  for (std::int64_t first = 0; first < weights.rows; first += I::kRows) {
    const std::int64_t rows = weights.rows - first < I::kRows ? weights.rows - first : I::kRows;
    fill_panel<I, Block>(weights, first, rows, input.columns, panel);
    std::int64_t t = 0;
    for (; t + I::kTokens <= input.tokens; t += I::kTokens) {
      panel_tokens<I, Block, I::kTokens>(panel, input, t, rows, y + t * y_stride + first, y_stride);
    }
    for (; t < input.tokens; ++t) {
      panel_tokens<I, Block, 1>(panel, input, t, rows, y + t * y_stride + first, y_stride);
    }
  }
}

// Fewer input rows than this do not pay for a panel.
constexpr std::int64_t kPanelTokens = 4;

template <typename I,
          typename Block,
          float (*kRowDot)(const std::uint8_t*, const MatmulInput&, std::int64_t)>
void quantized_matmul(const WeightRows& weights,
                      const MatmulInput& input,
                      float* y,
                      std::int64_t y_stride) {
  if (input.tokens >= kPanelTokens) return panel_matmul<I, Block>(weights, input, y, y_stride);
  const auto* data = static_cast<const std::uint8_t*>(weights.data);
  for (std::int64_t r = 0; r < weights.rows; ++r) {
    for (std::int64_t t = 0; t < input.tokens; ++t)
      y[t * y_stride + r] = kRowDot(data + r * weights.row_bytes, input, t);
  }
}

}  // namespace
}  // namespace pocketvlm
