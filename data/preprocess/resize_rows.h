#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

/// The two inner loops of the resize, in plain C++ and in AVX2; both give the same bytes.
namespace pocketvlm {

/// Fractional bits of a weight: 32 - 8 (a pixel) - 2 (sign and overshoot of the kernel).
constexpr int kWeightBits = 22;
constexpr std::int32_t kWeightHalf = 1 << (kWeightBits - 1);

/// For each output place: the input places that shape it and their weights.
struct ResizeWeights {
  int taps = 0;                           // weights stored per output place, even; unused are 0
  std::vector<std::pair<int, int>> span;  // first input place, number of input places
  std::vector<std::int32_t> fixed;        // [output][taps], kWeightBits fractional bits

  /// What each sum starts with: one half, for rounding, and what lies outside the stored row.
  std::vector<std::array<std::int32_t, 4>> start;  // red, green, blue, unused

  const std::int32_t* of(int place) const { return &fixed[static_cast<std::size_t>(place) * taps]; }
};

/// One row to another width.
///   rgbx  the input row, four bytes a pixel (the fourth unused), one pixel longer than the row
///   rgb   the output row, three bytes a pixel
using HorizontalRow = void (*)(const std::uint8_t* rgbx,
                               const ResizeWeights& weights,
                               std::uint8_t* rgb);

/// One output row of `bytes` bytes from `count` input rows of the same length.
using VerticalRow = void (*)(const std::uint8_t* const* rows,
                             const std::int32_t* fixed,
                             int count,
                             int bytes,
                             std::uint8_t* out);

struct ResizeRows {
  HorizontalRow horizontal;
  VerticalRow vertical;
};

/// The loops for every processor.
ResizeRows plain_resize_rows();

/// The fastest loops that this processor can run.
const ResizeRows& resize_rows();

}  // namespace pocketvlm
