#include "mobile/packed512.h"
#include "mobile/packed_kernels.h"
#include "mobile/tile_panels.h"

// Products of packed weights with many input rows through AMX: tiles multiply 16 rows of weights
// with 16 input rows over the 32 columns of one scale, and vector instructions scale and add what
// they leave in memory. Compiled with the instructions of packed_avx512.cc: nothing with external
// linkage but the functions of kernels_simd.h.
namespace pocketvlm {
namespace {

// Fewer input rows are not worth a tile, which is as slow with them as with 16.
constexpr std::int64_t kTileTokens = 8;
// Blocks of 32 columns at a time: an opened panel of them stays in the first-level cache, the input
// rows of a prompt in the second. A multiple of every unit.
constexpr std::int64_t kChunk = 64;

// 32 columns of 16 input rows: levels as a tile, scale and scaled sum of each row.
struct alignas(64) InputBlock {
  std::int8_t quants[kTileRows][32];
  float scales[kTileRows];
  float sums[kTileRows];
};

std::int64_t groups_of(std::int64_t tokens) { return (tokens + kTileRows - 1) / kTileRows; }

// Input blocks lie chunk by chunk, in a chunk group by group: where those of a group begin.
std::int64_t block_at(std::int64_t chunk,
                      std::int64_t group,
                      std::int64_t groups,
                      std::int64_t count) {
  const std::int64_t left = count - chunk * kChunk;
  return chunk * kChunk * groups + group * (left < kChunk ? left : kChunk);
}

// Rows beyond the last are zero.
void gather_inputs(const MatmulInput& input, std::int64_t group, InputBlock* blocks) {
  const std::int64_t count = input.columns / 32;
  const std::int64_t groups = groups_of(input.tokens);
  for (std::int64_t first = 0; first < count; first += kChunk) {
    InputBlock* chunk = blocks + block_at(first / kChunk, group, groups, count);
    const std::int64_t here = count - first < kChunk ? count - first : kChunk;
    for (int t = 0; t < kTileRows; ++t) {
      const std::int64_t row = group * kTileRows + t;
      if (row >= input.tokens) {
        for (std::int64_t b = 0; b < here; ++b) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(chunk[b].quants[t]),
                             _mm256_setzero_si256());
          chunk[b].scales[t] = chunk[b].sums[t] = 0.0F;
        }
        continue;
      }
      const std::int8_t* quants = input.quants + row * input.columns + 32 * first;
      const std::int64_t at = row * count + first;
      for (std::int64_t b = 0; b < here; ++b) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(chunk[b].quants[t]),
                           _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + 32 * b)));
        chunk[b].scales[t] = input.scales[at + b];
        chunk[b].sums[t] = input.sums32[at + b];
      }
    }
  }
}

// Levels without their bias: tiles multiply signed numbers, and sums of inputs are not needed.
template <typename Unit>
void open_signed(const Unit& unit, OpenBlock<Unit>* blocks) {
  open_unit<Packed512>(unit, blocks);
  if constexpr (kPackedBias<Packed512, Unit> != 0.0F) {
    const __m512i bias = _mm512_set1_epi8(static_cast<char>(kPackedBias<Packed512, Unit>));
    for (int b = 0; b < Unit::kColumns / 32; ++b) {
      for (auto& levels : blocks[b].levels)
        _mm512_store_si512(levels, _mm512_add_epi8(_mm512_load_si512(levels), bias));
    }
  }
}

// What tile_panels.h multiplies with.
template <typename Unit>
struct PackedProducts {
  using Weights = OpenBlock<Unit>;
  using Input = InputBlock;
  static constexpr int kGroups = 2;
  static constexpr int kSmallStage = 2;

  static constexpr TileShapes shapes() {
    TileShapes shapes;
    for (int tile = 0; tile < kSumTiles; ++tile) shapes.set(tile, kTileRows, kTileRowBytes);
    for (int i = 0; i < 2; ++i) {
      shapes.set(4 + i, kTileRows, 32);
      shapes.set(6 + i, 8, kTileRowBytes);
    }
    return shapes;
  }

  template <int kSum, int kGroup, int kPanel>
  static void multiply(const Weights& weights, const Input& input) {
    if constexpr (kPanel == 0) load_tile<4 + kGroup>(input.quants, 32);
    if constexpr (kGroup == 0) load_tile<6 + kPanel>(weights.levels, kTileRowBytes);
    dot_signed<kSum, 4 + kGroup, 6 + kPanel>();
  }

  static __m512 add(
      const Weights& weights, const Input& input, int t, __m512i product, __m512 total) {
    const __m512 sum = _mm512_cvtepi32_ps(product);
    const __m512 scaled = _mm512_mul_ps(sum, _mm512_set1_ps(input.scales[t]));
    total = _mm512_fmadd_ps(scaled, _mm512_load_ps(weights.factors[0]), total);
    if constexpr (kStoredOffset<Unit>) {
      const __m512 offset = _mm512_load_ps(weights.factors[1]);
      total = _mm512_fmadd_ps(offset, _mm512_set1_ps(input.sums[t]), total);
    }
    return total;
  }
};

template <typename Unit>
void amx_matmul(const PackedRows& weights,
                const MatmulInput& input,
                float* y,
                std::int64_t y_stride) {
  if (input.tokens < kTileTokens)
    return packed_matmul<Packed512, Unit, OpenPanels>(weights, input, y, y_stride);
  using P = PackedProducts<Unit>;
  constexpr std::int64_t kUnitBlocks = Unit::kColumns / 32;
  const std::int64_t count = input.columns / 32;
  const std::int64_t units = input.columns / Unit::kColumns;
  const std::int64_t groups = groups_of(input.tokens);
  const std::int64_t own = input.packed == nullptr ? groups * count : 0;
  constexpr std::size_t kOpenedBytes = 2 * kChunk * sizeof(OpenBlock<Unit>);
  auto* scratch = static_cast<std::byte*>(
      panel_scratch(kOpenedBytes + static_cast<std::size_t>(own) * sizeof(InputBlock)));
  auto* blocks = reinterpret_cast<OpenBlock<Unit>*>(scratch);
  const auto* inputs = static_cast<const InputBlock*>(input.packed);
  if (inputs == nullptr) {
    auto* gathered = reinterpret_cast<InputBlock*>(scratch + kOpenedBytes);
    for (std::int64_t g = 0; g < groups; ++g) gather_inputs(input, g, gathered);
    inputs = gathered;
  }
  static constexpr TileShapes kShapes = P::shapes();
  const TileSession session(kShapes);
  for (std::int64_t chunk = 0; chunk * kChunk < count; ++chunk) {
    const std::int64_t left = count - chunk * kChunk;
    const std::int64_t blocks_here = left < kChunk ? left : kChunk;
    const auto* unit = static_cast<const Unit*>(weights.data) + chunk * kChunk / kUnitBlocks;
    for (std::int64_t row = 0; row < weights.rows; row += 2 * kPanelRows, unit += 2 * units) {
      const std::int64_t rows = weights.rows - row;
      for (int p = 0; p < (rows > kPanelRows ? 2 : 1); ++p) {
        for (std::int64_t b = 0; b < blocks_here; b += kUnitBlocks)
          open_signed(unit[p * units + b / kUnitBlocks], blocks + p * blocks_here + b);
      }
      tile_panels<P>({.panels = blocks,
                      .panel_step = blocks_here,
                      .groups = inputs + block_at(chunk, 0, groups, count),
                      .group_step = blocks_here,
                      .count = blocks_here,
                      .tokens = input.tokens,
                      .rows = rows,
                      .resume = chunk > 0,
                      .y = y + row,
                      .y_stride = y_stride});
    }
  }
}

}  // namespace

std::int64_t amx_packed_input_bytes(std::int64_t tokens, std::int64_t columns) {
  if (tokens < kTileTokens) return 0;
  return groups_of(tokens) * (columns / 32) * static_cast<std::int64_t>(sizeof(InputBlock));
}

void amx_pack_input(const MatmulInput& input, std::int64_t begin, std::int64_t end, void* packed) {
  for (std::int64_t g = begin; g < end; ++g)
    gather_inputs(input, g, static_cast<InputBlock*>(packed));
}

PackedMatmulFunction amx_packed_matmul(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return amx_matmul<PackedQ8_0>;
    case GgmlType::kQ4_0:
      return amx_matmul<PackedQ4_0>;
    case GgmlType::kQ4_1:
      return amx_matmul<PackedQ4_1>;
    case GgmlType::kQ5_0:
      return amx_matmul<PackedQ5_0>;
    case GgmlType::kQ4_K:
      return amx_matmul<PackedQ4_K>;
    default:
      // Q6_K has a scale for 16 columns: tiles that are half empty are slower than vectors.
      return avx512_packed_matmul(type);
  }
}

}  // namespace pocketvlm
