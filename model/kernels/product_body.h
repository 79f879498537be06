#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "model/kernels/lanes.h"

/// Products with a weight matrix in panels (PackedProduct): rows in tiles that stay in registers, depth in one go, so that a
/// row's sums do not depend on what other rows there are.
namespace pocketvlm::kernels {
namespace {

#if defined(__AVX512BF16__)
constexpr int64_t kTileRows = 12;  // 12 x 2 sums, 2 columns' weights, 1 row's pair: 27 of 32 registers
#else
constexpr int64_t kTileRows = 4;
#endif
constexpr int64_t kTileVectors = 2;

/// total += x[0] * w[0] + x[1] * w[1] of the pairs of bfloat16 that each word holds.
POCKETVLM_INLINE Floats multiply_pairs(Floats total, Words x, Words w) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(total, (__m512bh)x, (__m512bh)w);
#else
  constexpr std::uint32_t kUpper = 0xffff0000U;
  total += reinterpret_cast<Floats>(Words(x << 16)) * reinterpret_cast<Floats>(Words(w << 16));
  return total + reinterpret_cast<Floats>(Words(x & kUpper)) * reinterpret_cast<Floats>(Words(w & kUpper));
#endif
}

template <int64_t kRows>
void product_tile(const PackedProduct& a, int64_t row, int64_t panel) {
  const int64_t pairs = (a.depth + 1) / 2;
  const auto* weights = static_cast<const std::uint32_t*>(a.panels) + panel * pairs * kPanelColumns;
  const std::uint16_t* x = static_cast<const std::uint16_t*>(a.x) + row * a.depth;
  const int64_t columns = smaller(kPanelColumns, a.columns - panel * kPanelColumns);
  for (int64_t first = 0; first < columns; first += kTileVectors * kLanes) {
    Floats total[kRows][kTileVectors] = {};
    const auto add_pair = [&](int64_t pair, auto&& pair_of_row) {
      Words w[kTileVectors];
      for (int64_t v = 0; v < kTileVectors; ++v) {
        std::memcpy(&w[v], weights + pair * kPanelColumns + first + v * kLanes, sizeof(w[v]));
      }
      for (int64_t r = 0; r < kRows; ++r) {
        const Words value = Words{} + pair_of_row(r);
        for (int64_t v = 0; v < kTileVectors; ++v) total[r][v] = multiply_pairs(total[r][v], value, w[v]);
      }
    };
    for (int64_t pair = 0; pair < a.depth / 2; ++pair) {
      add_pair(pair, [&](int64_t r) {
        std::uint32_t both;
        std::memcpy(&both, x + r * a.depth + 2 * pair, sizeof(both));
        return both;
      });
    }
    if (a.depth % 2 != 0) {
      add_pair(pairs - 1, [&](int64_t r) { return static_cast<std::uint32_t>(x[r * a.depth + a.depth - 1]); });
    }
    for (int64_t v = 0; v < kTileVectors; ++v) {
      const int64_t column = panel * kPanelColumns + first + v * kLanes;
      const int64_t n = smaller(kLanes, a.columns - column);
      if (n <= 0) break;
      const Floats bias = a.bias != nullptr ? load_lanes(a.bias + column, n) : Floats{};
      for (int64_t r = 0; r < kRows; ++r) {
        store_lanes(static_cast<Bf16*>(a.y) + (row + r) * a.columns + column, total[r][v] + bias, n);
      }
    }
  }
}

template <int64_t kRows>
void product_rest(const PackedProduct& a, int64_t row, int64_t rows, int64_t panel) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return product_tile<kRows>(a, row, panel);
    product_rest<kRows - 1>(a, row, rows, panel);
  }
}

[[maybe_unused]] void packed_product(const PackedProduct& a, int64_t panel_begin, int64_t panel_end) {
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    int64_t row = 0;
    for (; row + kTileRows <= a.rows; row += kTileRows) product_tile<kTileRows>(a, row, panel);
    product_rest<kTileRows - 1>(a, row, a.rows - row, panel);
  }
}

template <typename T>
void pack_panels(const PackPanels& a, int64_t panel_begin, int64_t panel_end) {
  const int64_t pairs = (a.depth + 1) / 2;
  const auto bits_of = [&](int64_t column, int64_t depth) -> std::uint16_t {
    if (column >= a.columns || depth >= a.depth) return 0;
    const T* weight = static_cast<const T*>(a.weight) + column * a.depth + depth;
    if constexpr (sizeof(T) == sizeof(Bf16)) {
      return reinterpret_cast<const Bf16*>(weight)->bits;
    } else {
      std::uint32_t word;
      std::memcpy(&word, weight, sizeof(word));
      return static_cast<std::uint16_t>((word + 0x7fffU + ((word >> 16) & 1U)) >> 16);
    }
  };
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    auto* out = static_cast<std::uint32_t*>(a.panels) + panel * pairs * kPanelColumns;
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      const int64_t column = panel * kPanelColumns + c;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        out[pair * kPanelColumns + c] =
            bits_of(column, 2 * pair) | static_cast<std::uint32_t>(bits_of(column, 2 * pair + 1)) << 16;
      }
    }
  }
}

}  // namespace
}  // namespace pocketvlm::kernels
