#include "base/amx_tiles.h"
#include "mobile/packed512.h"
#include "mobile/packed_kernels.h"

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

// Two sets of sums, inputs and weights.
constexpr TileShapes tile_shapes() {
  TileShapes shapes;
  for (int set = 0; set < 2; ++set) {
    shapes.set(3 * set, kTileRows, kTileRowBytes);
    shapes.set(3 * set + 1, kTileRows, 32);
    shapes.set(3 * set + 2, 8, kTileRowBytes);
  }
  return shapes;
}

using Products = std::int32_t[kTileRows][16];

// Products of twice 32 columns: both tiles are under way before the first is stored.
template <typename Unit>
inline void multiply_pair(const OpenBlock<Unit>* blocks,
                          const InputBlock* inputs,
                          Products (&products)[2]) {
  clear_tile<0>();
  load_tile<1>(inputs[0].quants, 32);
  load_tile<2>(blocks[0].levels, kTileRowBytes);
  clear_tile<3>();
  load_tile<4>(inputs[1].quants, 32);
  load_tile<5>(blocks[1].levels, kTileRowBytes);
  dot_signed<0, 1, 2>();
  dot_signed<3, 4, 5>();
  store_tile<0>(products[0], kTileRowBytes);
  store_tile<3>(products[1], kTileRowBytes);
}

// A panel of 16 rows times 16 input rows; y is continued where `resume`. `count` is even, as whole
// units are.
template <typename Unit>
void tile_tokens(const OpenBlock<Unit>* blocks,
                 std::int64_t count,
                 const InputBlock* inputs,
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
  // Products are added one pair later: what tiles leave in memory is there only after a while.
  alignas(64) Products products[2][2];
  const auto add = [&](std::int64_t b) {
    const __m512 factor = _mm512_load_ps(blocks[b].factors[0]);
    const Products& ints = products[b / 2 % 2][b % 2];
#pragma GCC unroll 16
    for (int t = 0; t < kTileRows; ++t) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(ints[t]));
      const __m512 scaled = _mm512_mul_ps(sum, _mm512_set1_ps(inputs[b].scales[t]));
      totals[t] = _mm512_fmadd_ps(scaled, factor, totals[t]);
    }
    if constexpr (kStoredOffset<Unit>) {
      const __m512 offset = _mm512_load_ps(blocks[b].factors[1]);
#pragma GCC unroll 16
      for (int t = 0; t < kTileRows; ++t)
        totals[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(inputs[b].sums[t]), totals[t]);
    }
  };
  multiply_pair(blocks, inputs, products[0]);
  for (std::int64_t b = 0; b < count; b += 2) {
    const std::int64_t next = b + 2;
    if (next < count) multiply_pair(blocks + next, inputs + next, products[next / 2 % 2]);
    add(b);
    add(b + 1);
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTileRows; ++t) {
    if (t < tokens) _mm512_mask_storeu_ps(y + t * y_stride, lanes, totals[t]);
  }
}

template <typename Unit>
void amx_matmul(const PackedRows& weights,
                const MatmulInput& input,
                float* y,
                std::int64_t y_stride) {
  if (input.tokens < kTileTokens)
    return packed_matmul<Packed512, Unit, OpenPanels>(weights, input, y, y_stride);
  static constexpr TileShapes kShapes = tile_shapes();
  constexpr std::int64_t kUnitBlocks = Unit::kColumns / 32;
  const std::int64_t count = input.columns / 32;
  const std::int64_t units = input.columns / Unit::kColumns;
  const std::int64_t groups = groups_of(input.tokens);
  const std::int64_t own = input.packed == nullptr ? groups * count : 0;
  constexpr std::size_t kOpenedBytes = kChunk * sizeof(OpenBlock<Unit>);
  auto* scratch = static_cast<std::byte*>(
      panel_scratch(kOpenedBytes + static_cast<std::size_t>(own) * sizeof(InputBlock)));
  auto* blocks = reinterpret_cast<OpenBlock<Unit>*>(scratch);
  const auto* inputs = static_cast<const InputBlock*>(input.packed);
  if (inputs == nullptr) {
    auto* gathered = reinterpret_cast<InputBlock*>(scratch + kOpenedBytes);
    for (std::int64_t g = 0; g < groups; ++g) gather_inputs(input, g, gathered);
    inputs = gathered;
  }
  const TileSession session(kShapes);
  for (std::int64_t chunk = 0; chunk * kChunk < count; ++chunk) {
    const std::int64_t left = count - chunk * kChunk;
    const std::int64_t blocks_here = left < kChunk ? left : kChunk;
    const auto* unit = static_cast<const Unit*>(weights.data) + chunk * kChunk / kUnitBlocks;
    for (std::int64_t row = 0; row < weights.rows; row += kPanelRows, unit += units) {
      for (std::int64_t b = 0; b < blocks_here; b += kUnitBlocks)
        open_signed(unit[b / kUnitBlocks], blocks + b);
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t token = g * kTileRows;
        tile_tokens(blocks,
                    blocks_here,
                    inputs + block_at(chunk, g, groups, count),
                    input.tokens - token,
                    weights.rows - row,
                    chunk > 0,
                    y + token * y_stride + row,
                    y_stride);
      }
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
