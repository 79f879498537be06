#pragma once

#include <cstdint>

#include "base/amx_tiles.h"
#include "mobile/kernels_simd.h"
#include "mobile/packed512.h"
#include "mobile/vector512.h"

/// Products with the rows of a prompt through AMX, in bfloat16 with sums in float32. Products of bytes would have to leave the tiles
/// after the 32 columns of a scale, which takes longer than the multiplication; with scales multiplied in, sums stay in the
/// tiles. What rounding to bfloat16 costs (2^-9 of a number at most) is less than what eight bits for a block of 32 do.
/// Included by files compiled with the instructions of packed_avx512.cc and AVX512_BF16, hence internal linkage.
namespace pocketvlm {
namespace {

// 32 columns: of 16 input rows one after the other, or of a panel with two neighbouring columns of each row side by side.
using Tile = std::uint32_t[kTileRows][16];
constexpr std::int64_t kColumns = 32;

// Blocks of 32 columns at a time: two opened panels of them (16 KB) stay in the first-level cache, the inputs
// in the second. A multiple of every unit.
constexpr std::int64_t kChunk = 8;

std::int64_t groups_of(std::int64_t tokens) { return (tokens + kTileRows - 1) / kTileRows; }
std::int64_t blocks_of(std::int64_t columns) { return (columns + kColumns - 1) / kColumns; }

// Tiles of an input lie chunk by chunk, in a chunk group by group: where those of a group begin.
std::int64_t tile_at(std::int64_t chunk, std::int64_t group, std::int64_t groups, std::int64_t blocks) {
  const std::int64_t left = blocks - chunk * kChunk;
  return chunk * kChunk * groups + group * (left < kChunk ? left : kChunk);
}

// Groups of input rows (512 tokens) and rows of weights at a time: their sums (512 KB) stay in the second-level cache beside the
// inputs of a chunk (256 KB).
constexpr std::int64_t kSumGroups = 32;
constexpr std::int64_t kSumRows = 256;

// Sums of two groups of input rows and two panels between chunks, tile by tile: with y's stride they would share few sets of the
// caches.
using SumTiles = float[4][kTileRows][16];

// Where the finished sums of a group of input rows and a panel go.
struct Output {
  float* y;
  std::int64_t stride;
  std::int64_t tokens;  // that are there of 16
  std::int64_t rows;
};

inline void prefetch_to_write(const float* p) { asm volatile("prefetchw (%0)" ::"r"(p)); }

template <int kTile>
inline void store_sums(const Output& output) {
  if (output.tokens >= kTileRows && output.rows >= kPanelRows) return store_tile<kTile>(output.y, output.stride * 4);
  alignas(64) float part[kTileRows][16];
  store_tile<kTile>(part, kTileRowBytes);
  for (std::int64_t t = 0; t < kTileRows && t < output.tokens; ++t)
    Packed512::store_rows(output.y + t * output.stride, _mm512_load_ps(part[t]), output.rows);
}

template <int kGroups, int kPanels, typename Use>
inline void for_sums(const Use& use) {
  use.template operator()<0>();
  if constexpr (kPanels == 2) use.template operator()<1>();
  if constexpr (kGroups == 2) use.template operator()<2>();
  if constexpr (kGroups == 2 && kPanels == 2) use.template operator()<3>();
}

// Tiles 0 to 3 are sums, 4 and 5 inputs of two groups of rows, 6 and 7 weights of two panels.
template <int kGroups, int kPanels>
void multiply(const Tile* inputs, const Tile* weights, std::int64_t count, bool first, bool last, SumTiles& sums, const Output& output) {
  for_sums<kGroups, kPanels>([&]<int kTile>() {
    if (first)
      clear_tile<kTile>();
    else
      load_tile<kTile>(sums[kTile], kTileRowBytes);
  });
  if (last) {  // what is to be written is asked for while there is something to multiply
    for (int t = 0; t < kGroups * kTileRows; ++t)
      for (int p = 0; p < kPanels; ++p) prefetch_to_write(output.y + t * output.stride + p * kPanelRows);
  }
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
  for_sums<kGroups, kPanels>([&]<int kTile>() {
    if (!last) return store_tile<kTile>(sums[kTile], kTileRowBytes);
    constexpr int kGroup = kTile / 2, kPanel = kTile % 2;
    store_sums<kTile>(Output{output.y + kGroup * kTileRows * output.stride + kPanel * kPanelRows,
                             output.stride,
                             output.tokens - kGroup * kTileRows,
                             output.rows - kPanel * kPanelRows});
  });
}

/// y[token * y_stride + row] = dot(weight row, input row). `panels` opens weights:
///   kBlocks                        of 32 columns at a time, a divisor of kChunk
///   open(panel, block, tiles)      those of a panel of 16 rows; zeros for rows and columns that are not there
template <typename Panels>
void multiply_prompt(const Panels& panels, std::int64_t rows, const PromptInput& input, float* y, std::int64_t y_stride) {
  static_assert(kChunk % Panels::kBlocks == 0);
  const std::int64_t blocks = blocks_of(input.columns);
  const std::int64_t groups = groups_of(input.tokens);
  const std::int64_t most_pairs = ((groups < kSumGroups ? groups : kSumGroups) + 1) / 2;
  const auto* inputs = static_cast<const Tile*>(input.tiles);
  const std::int64_t sum_tiles = kSumRows / (2 * kPanelRows) * most_pairs;
  auto* opened = static_cast<Tile*>(panel_scratch(2 * kChunk * sizeof(Tile) + static_cast<std::size_t>(sum_tiles) * sizeof(SumTiles)));
  auto* sums = reinterpret_cast<SumTiles*>(opened + 2 * kChunk);
  static constexpr TileShapes kShapes = whole_tiles();
  const TileSession session(kShapes);
  const std::int64_t row_steps = (rows + kSumRows - 1) / kSumRows;
  const std::int64_t group_steps = (groups + kSumGroups - 1) / kSumGroups;
  for (std::int64_t step = 0; step < row_steps * group_steps; ++step) {
    const std::int64_t begin = step / group_steps * kSumRows, end = begin + kSumRows < rows ? begin + kSumRows : rows;
    const std::int64_t first = step % group_steps * kSumGroups, last = first + kSumGroups < groups ? first + kSumGroups : groups;
    for (std::int64_t block = 0; block < blocks; block += kChunk) {
      const std::int64_t here = blocks - block < kChunk ? blocks - block : kChunk;
      for (std::int64_t row = begin; row < end; row += 2 * kPanelRows) {
        const bool two = end - row > kPanelRows;
        for (int p = 0; p < (two ? 2 : 1); ++p) {
          for (std::int64_t b = 0; b < here; b += Panels::kBlocks)
            panels.open(row / kPanelRows + p, block + b, opened + p * kChunk + b);
        }
        for (std::int64_t group = first; group < last; group += 2) {
          const Output output = {y + group * kTileRows * y_stride + row, y_stride, input.tokens - group * kTileRows, rows - row};
          const bool both = group + 1 < last;
          const auto product = both ? (two ? multiply<2, 2> : multiply<2, 1>) : (two ? multiply<1, 2> : multiply<1, 1>);
          product(inputs + tile_at(block / kChunk, group, groups, blocks),
                  opened,
                  here,
                  block == 0,
                  block + kChunk >= blocks,
                  sums[(row - begin) / (2 * kPanelRows) * most_pairs + (group - first) / 2],
                  output);
        }
      }
    }
  }
}

}  // namespace
}  // namespace pocketvlm
