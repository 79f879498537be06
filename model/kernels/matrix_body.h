#pragma once

#include "model/kernels/lanes.h"

/// Small float matrix products for attention: panels of a few rows by a few vectors, kept in registers.
namespace pocketvlm::kernels {
namespace {

constexpr int64_t kPanelRows = kQueryPanel;
// 6 x 4 sums and 4 columns fill AVX-512's 32 registers, 6 x 2 and 2 the 16 of AVX2 and SSE.
constexpr int64_t kPanelVectors = kLanes == 16 ? 4 : 2;

/// One operand: element (row, depth) of A at a[row * row_stride + depth * depth_stride], B [depth, columns] and C [rows, columns]
/// row-major. Columns are whole vectors.
struct Product {
  const float* a;
  int64_t a_row;
  int64_t a_depth;
  const float* b;
  int64_t b_row;
  float* c;
  int64_t c_row;
};

template <int64_t kRows, int64_t kVectors, bool kAdd>
POCKETVLM_INLINE void panel(const Product& p, int64_t row, int64_t column, int64_t depth_begin, int64_t depth_end) {
  Floats total[kRows][kVectors] = {};
  const float* a = p.a + row * p.a_row;
  for (int64_t d = depth_begin; d < depth_end; ++d) {
    Floats b[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) b[v] = load(p.b + d * p.b_row + column + v * kLanes);
    for (int64_t r = 0; r < kRows; ++r) {
      const Floats x = broadcast(a[r * p.a_row + d * p.a_depth]);
      for (int64_t v = 0; v < kVectors; ++v) total[r][v] += x * b[v];
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t v = 0; v < kVectors; ++v) {
      float* c = p.c + (row + r) * p.c_row + column + v * kLanes;
      store(c, kAdd ? load(c) + total[r][v] : total[r][v]);
    }
  }
}

template <int64_t kRows, bool kAdd>
void panel_row(const Product& p, int64_t row, int64_t columns, int64_t depth_begin, int64_t depth_end) {
  int64_t column = 0;
  for (; column + kPanelVectors * kLanes <= columns; column += kPanelVectors * kLanes) {
    panel<kRows, kPanelVectors, kAdd>(p, row, column, depth_begin, depth_end);
  }
  if constexpr (kPanelVectors > 2) {
    if (column + 2 * kLanes <= columns) {
      panel<kRows, 2, kAdd>(p, row, column, depth_begin, depth_end);
      column += 2 * kLanes;
    }
  }
  if (column < columns) panel<kRows, 1, kAdd>(p, row, column, depth_begin, depth_end);
}

/// Rows [row, row + count) with count <= kPanelRows.
template <bool kAdd>
void panel_rows(const Product& p,
                int64_t row,
                int64_t count,
                int64_t columns,
                int64_t depth_begin,
                int64_t depth_end) {
  switch (count) {
    case 6: return panel_row<6, kAdd>(p, row, columns, depth_begin, depth_end);
    case 5: return panel_row<5, kAdd>(p, row, columns, depth_begin, depth_end);
    case 4: return panel_row<4, kAdd>(p, row, columns, depth_begin, depth_end);
    case 3: return panel_row<3, kAdd>(p, row, columns, depth_begin, depth_end);
    case 2: return panel_row<2, kAdd>(p, row, columns, depth_begin, depth_end);
    default: return panel_row<1, kAdd>(p, row, columns, depth_begin, depth_end);
  }
}

POCKETVLM_INLINE int64_t lanes_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

/// out [columns, rows_up] = in [rows, columns]^T, rows padded to whole vectors with zeros; columns are whole vectors.
[[maybe_unused]] void transpose(const float* in, int64_t rows, int64_t columns, float* out) {
  const int64_t rows_up = lanes_up(rows);
  for (int64_t r = 0; r < rows_up; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      Floats square[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) square[i] = r + i < rows ? load(in + (r + i) * columns + c) : Floats{};
      transpose_square(square);
      for (int64_t i = 0; i < kLanes; ++i) store(out + (c + i) * rows_up + r, square[i]);
    }
  }
}

}  // namespace
}  // namespace pocketvlm::kernels
