#include "base/amx_tiles.h"
#include "mobile/kernels_simd.h"
#include "mobile/packed512.h"
#include "mobile/packed_kernels.h"
#include "mobile/pairs512.h"

// Products of packed weights with the rows of a prompt through AMX, in bfloat16. Products of bytes would have to leave the tiles
// after the 32 columns of a scale, which takes longer than the multiplication; with scales multiplied in, sums stay in the
// tiles. What rounding to bfloat16 costs (2^-9 of a number at most) is less than what eight bits for a block of 32 do.
// Compiled with the instructions of packed_avx512.cc and AVX512_BF16: nothing with external linkage but the functions of
// kernels_simd.h.
namespace pocketvlm {
namespace {

// 32 columns: of 16 input rows one after the other, or of a panel with two neighbouring columns of each row side by side.
using Tile = std::uint32_t[kTileRows][16];
constexpr std::int64_t kColumns = 32;

// Blocks of 32 columns at a time: two opened panels of them stay in the first-level cache, the input rows of a prompt in the
// second. A multiple of every unit.
constexpr std::int64_t kChunk = 16;

std::int64_t groups_of(std::int64_t tokens) { return (tokens + kTileRows - 1) / kTileRows; }
std::int64_t blocks_of(std::int64_t columns) { return (columns + kColumns - 1) / kColumns; }

// Tiles of an input lie chunk by chunk, in a chunk group by group: where those of a group begin.
std::int64_t tile_at(std::int64_t chunk, std::int64_t group, std::int64_t groups, std::int64_t blocks) {
  const std::int64_t left = blocks - chunk * kChunk;
  return chunk * kChunk * groups + group * (left < kChunk ? left : kChunk);
}

// Sixteen first numbers, then sixteen second ones: two side by side.
alignas(64) constexpr struct {
  std::uint16_t at[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
} kSideBySide;

// Weights of one unit of a panel.
template <typename Unit>
void open_tiles(const Unit& unit, Tile* tiles) {
  constexpr int kBlocks = Unit::kColumns / kColumns;
  constexpr int kHalves = OpenBlock<Unit>::kHalves;
  OpenBlock<Unit> blocks[kBlocks];
  open_unit<Packed512>(unit, blocks);
  const __m512i bias = _mm512_set1_epi8(static_cast<char>(kPackedBias<Packed512, Unit>));
  const __m512i order = _mm512_load_si512(&kSideBySide);
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      // Four levels of each row, without their bias signed bytes.
      const __m512i levels = _mm512_add_epi8(_mm512_load_si512(blocks[b].levels[v]), bias);
      const __m512 scale = _mm512_load_ps(blocks[b].factors[v * kHalves / 8]);
      const auto value = [&](__m512i level) {
        const __m512 number = _mm512_cvtepi32_ps(level);
        if constexpr (kStoredOffset<Unit>) {
          return _mm512_fmadd_ps(number, scale, _mm512_load_ps(blocks[b].factors[1]));
        } else {
          return _mm512_mul_ps(number, scale);
        }
      };
      const __m512i first = pairs_of(value(_mm512_srai_epi32(_mm512_slli_epi32(levels, 24), 24)),
                                     value(_mm512_srai_epi32(_mm512_slli_epi32(levels, 16), 24)));
      const __m512i second = pairs_of(value(_mm512_srai_epi32(_mm512_slli_epi32(levels, 8), 24)),
                                      value(_mm512_srai_epi32(levels, 24)));
      _mm512_store_si512(tiles[b][2 * v], _mm512_permutexvar_epi16(order, first));
      _mm512_store_si512(tiles[b][2 * v + 1], _mm512_permutexvar_epi16(order, second));
    }
  }
}

// Where the sums of a group of input rows and a panel are kept between chunks.
struct Sums {
  float* y;
  std::int64_t stride;
  std::int64_t tokens;  // that are there of 16
  std::int64_t rows;

  bool whole() const { return tokens >= kTileRows && rows >= kPanelRows; }
};

template <int kTile>
inline void load_sums(const Sums& sums, bool resume) {
  if (!resume) return clear_tile<kTile>();
  if (sums.whole()) return load_tile<kTile>(sums.y, sums.stride * 4);
  alignas(64) float part[kTileRows][16] = {};
  for (std::int64_t t = 0; t < kTileRows && t < sums.tokens; ++t)
    _mm512_store_ps(part[t], _mm512_maskz_loadu_ps(first_lanes(sums.rows), sums.y + t * sums.stride));
  load_tile<kTile>(part, kTileRowBytes);
}

template <int kTile>
inline void store_sums(const Sums& sums) {
  if (sums.whole()) return store_tile<kTile>(sums.y, sums.stride * 4);
  alignas(64) float part[kTileRows][16];
  store_tile<kTile>(part, kTileRowBytes);
  for (std::int64_t t = 0; t < kTileRows && t < sums.tokens; ++t)
    Packed512::store_rows(sums.y + t * sums.stride, _mm512_load_ps(part[t]), sums.rows);
}

// Tiles 0 to 3 are sums, 4 and 5 inputs of two groups of rows, 6 and 7 weights of two panels.
template <int kGroups, int kPanels>
void multiply(const Tile* inputs, const Tile* weights, std::int64_t count, bool resume, Sums sums) {
  const auto of = [&sums](int group, int panel) {
    return Sums{sums.y + group * kTileRows * sums.stride + panel * kPanelRows,
                sums.stride,
                sums.tokens - group * kTileRows,
                sums.rows - panel * kPanelRows};
  };
  load_sums<0>(of(0, 0), resume);
  if constexpr (kPanels == 2) load_sums<1>(of(0, 1), resume);
  if constexpr (kGroups == 2) load_sums<2>(of(1, 0), resume);
  if constexpr (kGroups == 2 && kPanels == 2) load_sums<3>(of(1, 1), resume);
  for (std::int64_t b = 0; b < count; ++b) {
    load_tile<4>(inputs[b], kTileRowBytes);
    load_tile<6>(weights[b], kTileRowBytes);
    dot_bf16<0, 4, 6>();
    if constexpr (kPanels == 2) {
      load_tile<7>(weights[kChunk + b], kTileRowBytes);
      dot_bf16<1, 4, 7>();
    }
    if constexpr (kGroups == 2) {
      load_tile<5>(inputs[count + b], kTileRowBytes);
      dot_bf16<2, 5, 6>();
      if constexpr (kPanels == 2) dot_bf16<3, 5, 7>();
    }
  }
  store_sums<0>(of(0, 0));
  if constexpr (kPanels == 2) store_sums<1>(of(0, 1));
  if constexpr (kGroups == 2) store_sums<2>(of(1, 0));
  if constexpr (kGroups == 2 && kPanels == 2) store_sums<3>(of(1, 1));
}

template <typename Unit>
void prompt_matmul(const PackedRows& weights, const PromptInput& input, float* y, std::int64_t y_stride) {
  constexpr std::int64_t kUnitBlocks = Unit::kColumns / kColumns;
  static_assert(kChunk % kUnitBlocks == 0);
  const std::int64_t blocks = input.columns / kColumns;
  const std::int64_t units = input.columns / Unit::kColumns;
  const std::int64_t groups = groups_of(input.tokens);
  const auto* inputs = static_cast<const Tile*>(input.tiles);
  auto* opened = static_cast<Tile*>(panel_scratch(2 * kChunk * sizeof(Tile)));
  static constexpr TileShapes kShapes = [] {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTileRows, kTileRowBytes);
    return shapes;
  }();
  const TileSession session(kShapes);
  for (std::int64_t chunk = 0; chunk * kChunk < blocks; ++chunk) {
    const std::int64_t left = blocks - chunk * kChunk;
    const std::int64_t here = left < kChunk ? left : kChunk;
    const auto* unit = static_cast<const Unit*>(weights.data) + chunk * kChunk / kUnitBlocks;
    for (std::int64_t row = 0; row < weights.rows; row += 2 * kPanelRows, unit += 2 * units) {
      const bool two = weights.rows - row > kPanelRows;
      for (int p = 0; p < (two ? 2 : 1); ++p) {
        for (std::int64_t b = 0; b < here; b += kUnitBlocks)
          open_tiles(unit[p * units + b / kUnitBlocks], opened + p * kChunk + b);
      }
      for (std::int64_t group = 0; group < groups; group += 2) {
        const Tile* tiles = inputs + tile_at(chunk, group, groups, blocks);
        const Sums sums = {y + group * kTileRows * y_stride + row, y_stride, input.tokens - group * kTileRows, weights.rows - row};
        const bool both = group + 1 < groups;
        const auto product = both ? (two ? multiply<2, 2> : multiply<2, 1>) : (two ? multiply<1, 2> : multiply<1, 1>);
        product(tiles, opened, here, chunk > 0, sums);
      }
    }
  }
}

}  // namespace

std::int64_t amx_prompt_bytes(std::int64_t tokens, std::int64_t columns) {
  return groups_of(tokens) * blocks_of(columns) * static_cast<std::int64_t>(sizeof(Tile));
}

// Rows of the last group that no token has stay as they are: what becomes of them is not stored.
void amx_pack_prompt(const float* values,
                     std::int64_t first,
                     std::int64_t count,
                     std::int64_t token,
                     const PromptInput& shape,
                     void* tiles) {
  const std::int64_t groups = groups_of(shape.tokens);
  const std::int64_t blocks = blocks_of(shape.columns);
  for (std::int64_t b = first / kColumns; b * kColumns < first + count; ++b, values += kColumns) {
    Tile& tile = static_cast<Tile*>(tiles)[tile_at(b / kChunk, token / kTileRows, groups, blocks) + b % kChunk];
    _mm512_store_si512(tile[token % kTileRows], pairs_of(_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16)));
  }
}

PromptMatmulFunction amx_prompt_matmul(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return prompt_matmul<PackedQ8_0>;
    case GgmlType::kQ4_0:
      return prompt_matmul<PackedQ4_0>;
    case GgmlType::kQ4_1:
      return prompt_matmul<PackedQ4_1>;
    case GgmlType::kQ5_0:
      return prompt_matmul<PackedQ5_0>;
    case GgmlType::kQ4_K:
      return prompt_matmul<PackedQ4_K>;
    case GgmlType::kQ6_K:
      return prompt_matmul<PackedQ6_K>;
    default:
      return nullptr;
  }
}

}  // namespace pocketvlm
