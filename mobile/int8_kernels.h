#pragma once

#include <cstdint>

#include "mobile/kernels_simd.h"
#include "mobile/packed_formats.h"

/// Products of PackedInt8 matrices with inputs of eight bits, written once over an instruction set
/// I, which packed_kernels.h describes.
/// With one scale for 128 columns on both sides, nine of ten instructions are multiplications.
/// Included by files with different instruction sets, hence internal linkage.
namespace pocketvlm {
namespace {

// kPanels panels, `units` units each, times kTokens input rows.
template <typename I, int kPanels, int kTokens>
void int8_tile(const PackedInt8* panel,
               std::int64_t units,
               const Int8Input& input,
               std::int64_t token,
               std::int64_t rows,
               float* y,
               std::int64_t y_stride) {
  constexpr int kColumns = PackedInt8::kColumns;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * units;
  const float* constants = input.constants + token * units;
  typename I::Floats totals[kPanels][kTokens];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) totals[p][t] = I::zero();
  }
  for (std::int64_t u = 0; u < units; ++u) {
    typename I::Ints dots[kPanels][kTokens];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) dots[p][t] = I::zero_ints();
    }
#pragma GCC unroll 4
    for (int k = 0; k < kColumns / 4; ++k) {
      typename I::Bytes levels[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p)
        levels[p] = I::q8_levels(I::load(panel[p * units + u].q[k]));
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const std::int8_t* four = x + t * input.columns + kColumns * u + 4 * k;
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) dots[p][t] = I::dot(dots[p][t], levels[p], four);
      }
    }
    typename I::Floats factors[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) factors[p] = I::load_floats(panel[p * units + u].scale);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const auto scale = I::every(scales + t * units + u);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        const auto dot = I::to_floats(dots[p][t]);
        if constexpr (I::kQ8Bias == 0.0F) {
          totals[p][t] = I::fma(I::mul(dot, scale), factors[p], totals[p][t]);
        } else {
          const auto sum = I::fma(dot, scale, I::every(constants + t * units + u));
          totals[p][t] = I::fma(sum, factors[p], totals[p][t]);
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      I::store_rows(y + t * y_stride + kPanelRows * p, totals[p][t], rows - kPanelRows * p);
  }
}

template <typename I, int kPanels>
void int8_tokens(const PackedInt8* panel,
                 std::int64_t units,
                 const Int8Input& input,
                 std::int64_t rows,
                 float* y,
                 std::int64_t y_stride) {
  constexpr int kTokens = I::kTokens;
  std::int64_t t = 0;
  for (; t + kTokens <= input.tokens; t += kTokens)
    int8_tile<I, kPanels, kTokens>(panel, units, input, t, rows, y + t * y_stride, y_stride);
  for (; t < input.tokens; ++t)
    int8_tile<I, kPanels, 1>(panel, units, input, t, rows, y + t * y_stride, y_stride);
}

template <typename I>
void int8_matmul(const PackedRows& weights,
                 const Int8Input& input,
                 float* y,
                 std::int64_t y_stride) {
  const std::int64_t units = input.columns / PackedInt8::kColumns;
  const auto* panel = static_cast<const PackedInt8*>(weights.data);
  for (std::int64_t first = 0; first < weights.rows; first += I::kPanels * kPanelRows) {
    const std::int64_t rows = weights.rows - first;
    if (I::kPanels == 2 && rows > kPanelRows)
      int8_tokens<I, I::kPanels>(panel, units, input, rows, y + first, y_stride);
    else
      int8_tokens<I, 1>(panel, units, input, rows, y + first, y_stride);
    panel += I::kPanels * units;
  }
}

}  // namespace
}  // namespace pocketvlm
