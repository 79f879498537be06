#include "base/amx_tiles.h"
#include "mobile/kernels_simd.h"
#include "mobile/packed512.h"

// Products of PackedInt8 matrices through AMX. Compiled with the instructions of int8_avx512.cc:
// nothing with external linkage but the function of kernels_simd.h.
namespace pocketvlm {
namespace {

constexpr std::int64_t kTileTokens = 8;
constexpr int kColumns = PackedInt8::kColumns;
// Units at a time: those of a panel stay in the first-level cache.
constexpr std::int64_t kChunkUnits = 12;

using Products = std::int32_t[kTileRows][16];

struct alignas(64) InputUnit {
  std::int8_t quants[2][kTileRows][64];
  float scales[kTileRows];
  float constants[kTileRows];
};

void gather_inputs(const Int8Input& input,
                   std::int64_t token,
                   std::int64_t first,
                   std::int64_t count,
                   InputUnit* units) {
  const std::int64_t all = input.columns / kColumns;
  for (int t = 0; t < kTileRows; ++t) {
    const bool there = token + t < input.tokens;
    const std::int64_t row = there ? token + t : token;
    for (std::int64_t u = 0; u < count; ++u) {
      const std::int8_t* quants = input.quants + row * input.columns + (first + u) * kColumns;
      for (int k = 0; k < 2; ++k)
        _mm512_store_si512(units[u].quants[k][t], _mm512_loadu_si512(quants + 64 * k));
      units[u].scales[t] = there ? input.scales[row * all + first + u] : 0.0F;
      units[u].constants[t] = there ? input.constants[row * all + first + u] : 0.0F;
    }
  }
}

template <int kSet>
inline void multiply_unit(const PackedInt8& weights, const InputUnit& inputs, Products& products) {
  constexpr int kSums = 3 * kSet;
  clear_tile<kSums>();
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    load_tile<kSums + 1>(inputs.quants[k], kTileRowBytes);
    load_tile<kSums + 2>(weights.q[16 * k], kTileRowBytes);
    dot_unsigned<kSums, kSums + 1, kSums + 2>();
  }
  store_tile<kSums>(products, kTileRowBytes);
}

// A panel of 16 rows times 16 input rows; y is continued where `resume`.
void tile_tokens(const PackedInt8* weights,
                 std::int64_t count,
                 const InputUnit* inputs,
                 std::int64_t tokens,
                 std::int64_t rows,
                 bool resume,
                 float* y,
                 std::int64_t y_stride) {
  const auto lanes = static_cast<__mmask16>(rows >= kPanelRows ? 0xFFFFU : (1U << rows) - 1U);
  __m512 totals[kTileRows];
#pragma GCC unroll 16
  for (int t = 0; t < kTileRows; ++t) {
    totals[t] = _mm512_setzero_ps();
    if (resume && t < tokens) totals[t] = _mm512_maskz_loadu_ps(lanes, y + t * y_stride);
  }
  alignas(64) Products products[2];
  const auto add = [&](std::int64_t u) {
    const __m512 factor = _mm512_load_ps(weights[u].scale);
#pragma GCC unroll 16
    for (int t = 0; t < kTileRows; ++t) {
      const __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(products[u % 2][t]));
      const __m512 sum = _mm512_fmadd_ps(
          dot, _mm512_set1_ps(inputs[u].scales[t]), _mm512_set1_ps(inputs[u].constants[t]));
      totals[t] = _mm512_fmadd_ps(sum, factor, totals[t]);
    }
  };
  multiply_unit<0>(weights[0], inputs[0], products[0]);
  for (std::int64_t u = 1; u < count; ++u) {
    if (u % 2 == 0)
      multiply_unit<0>(weights[u], inputs[u], products[0]);
    else
      multiply_unit<1>(weights[u], inputs[u], products[1]);
    add(u - 1);
  }
  add(count - 1);
#pragma GCC unroll 16
  for (int t = 0; t < kTileRows; ++t) {
    if (t < tokens) _mm512_mask_storeu_ps(y + t * y_stride, lanes, totals[t]);
  }
}

constexpr TileShapes full_tiles() {
  TileShapes shapes;
  for (int tile = 0; tile < 6; ++tile) shapes.set(tile, kTileRows, kTileRowBytes);
  return shapes;
}

}  // namespace

void amx_matmul_int8(const PackedRows& weights,
                     const Int8Input& input,
                     float* y,
                     std::int64_t y_stride) {
  if (input.tokens < kTileTokens) return avx512_matmul_int8(weights, input, y, y_stride);
  static constexpr TileShapes kShapes = full_tiles();
  const std::int64_t units = input.columns / kColumns;
  const std::int64_t chunk = units < kChunkUnits ? units : kChunkUnits;
  const std::int64_t groups = (input.tokens + kTileRows - 1) / kTileRows;
  auto* inputs = static_cast<InputUnit*>(
      panel_scratch(static_cast<std::size_t>(groups * chunk) * sizeof(InputUnit)));
  const TileSession session(kShapes);
  for (std::int64_t first = 0; first < units; first += chunk) {
    const std::int64_t count = units - first < chunk ? units - first : chunk;
    for (std::int64_t g = 0; g < groups; ++g)
      gather_inputs(input, g * kTileRows, first, count, inputs + g * count);
    const auto* panel = static_cast<const PackedInt8*>(weights.data) + first;
    for (std::int64_t row = 0; row < weights.rows; row += kPanelRows, panel += units) {
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t token = g * kTileRows;
        tile_tokens(panel,
                    count,
                    inputs + g * count,
                    input.tokens - token,
                    weights.rows - row,
                    first > 0,
                    y + token * y_stride + row,
                    y_stride);
      }
    }
  }
}

}  // namespace pocketvlm
