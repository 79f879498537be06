#include "mobile/kernels_simd.h"
#include "mobile/packed512.h"
#include "mobile/tile_panels.h"

// Products of PackedInt8 matrices through AMX. Compiled with the instructions of int8_avx512.cc:
// nothing with external linkage but the function of kernels_simd.h.
namespace pocketvlm {
namespace {

constexpr std::int64_t kTileTokens = 8;
constexpr int kColumns = PackedInt8::kColumns;
// Units at a time: those of a panel stay in the first-level cache.
constexpr std::int64_t kChunkUnits = 12;

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

// What tile_panels.h multiplies with.
struct Int8Products {
  using Weights = PackedInt8;
  using Input = InputUnit;
  static constexpr int kGroups = 1;
  static constexpr int kSmallStage = 1;

  template <int kSum, int kGroup, int kPanel>
  static void multiply(const Weights& weights, const Input& input) {
    if constexpr (kPanel == 0) load_tile<4>(input.quants[0], kTileRowBytes);
    load_tile<6>(weights.q[0], kTileRowBytes);
    dot_unsigned<kSum, 4, 6>();
    if constexpr (kPanel == 0) load_tile<5>(input.quants[1], kTileRowBytes);
    load_tile<7>(weights.q[16], kTileRowBytes);
    dot_unsigned<kSum, 5, 7>();
  }

  static __m512 add(
      const Weights& weights, const Input& input, int t, __m512i product, __m512 total) {
    const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product),
                                       _mm512_set1_ps(input.scales[t]),
                                       _mm512_set1_ps(input.constants[t]));
    return _mm512_fmadd_ps(sum, _mm512_load_ps(weights.scale), total);
  }
};

}  // namespace

void amx_matmul_int8(const PackedRows& weights,
                     const Int8Input& input,
                     float* y,
                     std::int64_t y_stride) {
  if (input.tokens < kTileTokens) return avx512_matmul_int8(weights, input, y, y_stride);
  const std::int64_t units = input.columns / kColumns;
  const std::int64_t chunk = units < kChunkUnits ? units : kChunkUnits;
  const std::int64_t groups = (input.tokens + kTileRows - 1) / kTileRows;
  auto* inputs = static_cast<InputUnit*>(
      panel_scratch(static_cast<std::size_t>(groups * chunk) * sizeof(InputUnit)));
  static constexpr TileShapes kShapes = whole_tiles();
  const TileSession session(kShapes);
  for (std::int64_t first = 0; first < units; first += chunk) {
    const std::int64_t count = units - first < chunk ? units - first : chunk;
    for (std::int64_t g = 0; g < groups; ++g)
      gather_inputs(input, g * kTileRows, first, count, inputs + g * count);
    const auto* panel = static_cast<const PackedInt8*>(weights.data) + first;
    for (std::int64_t row = 0; row < weights.rows; row += 2 * kPanelRows, panel += 2 * units) {
      tile_panels<Int8Products>({.panels = panel,
                                 .panel_step = units,
                                 .groups = inputs,
                                 .group_step = count,
                                 .count = count,
                                 .tokens = input.tokens,
                                 .rows = weights.rows - row,
                                 .resume = first > 0,
                                 .y = y + row,
                                 .y_stride = y_stride});
    }
  }
}

}  // namespace pocketvlm
