#pragma once

#include "base/amx_tiles.h"
#include "mobile/packed512.h"

/// Products of panels of 16 rows with groups of 16 input rows through AMX. Integer sums must leave
/// the tiles wherever a scale ends, by way of memory, and vector instructions scale and add them.
/// Tile and vector instructions hardly run side by side, so they take turns: a stage of products is
/// made first, each stored while later ones are multiplied, and then added.
///
/// Written once over a format P:
///   Weights, Input  a block: what one scale covers, of a panel and of a group; a run of them lies
///                   side by side
///   kGroups         groups at a time, 1 or 2
///   kSmallStage     divides every count of blocks
///   multiply<kSum, kGroup, kPanel>(weights, input)
///                   adds a product to tile kSum, 0 to 3. For kPanel 0 it reads the input, for kGroup 0 the
///                   weights; they may stay in tiles for the products that follow
///   add(weights, inputs, t, product, total)
///                   the total of input row t after that product
/// Included by files compiled as int8_avx512.cc, hence internal linkage.
namespace pocketvlm {
namespace {

using TileProduct = std::int32_t[kTileRows][16];
using TileTotals = float[kTileRows][16];

constexpr int kSumTiles = 4;
constexpr int kStage = 4;  // products of a stage and its operands stay in the first-level cache

// Two panels times two groups, or fewer of either.
template <typename P>
struct TileOperands {
  const typename P::Weights* panels[2];
  const typename P::Input* groups[2];
};

// Product kStep of a stage; the one that was in its tile is stored.
template <typename P, int kPanels, int kGroups, int kStep>
inline void multiply_step(const TileOperands<P>& operands, TileProduct* products) {
  constexpr int kBlock = kStep / (kPanels * kGroups);
  constexpr int kGroup = kStep / kPanels % kGroups;
  constexpr int kPanel = kStep % kPanels;
  constexpr int kSum = kStep % kSumTiles;
  if constexpr (kStep >= kSumTiles) store_tile<kSum>(products[kStep - kSumTiles], kTileRowBytes);
  clear_tile<kSum>();
  P::template multiply<kSum, kGroup, kPanel>(operands.panels[kPanel][kBlock],
                                             operands.groups[kGroup][kBlock]);
}

template <typename P, int kPanels, int kGroups, int kBlocks, int kStep = 0>
inline void multiply_stage(const TileOperands<P>& operands, TileProduct* products) {
  constexpr int kSteps = kPanels * kGroups * kBlocks;
  if constexpr (kStep < kSteps) {
    multiply_step<P, kPanels, kGroups, kStep>(operands, products);
    multiply_stage<P, kPanels, kGroups, kBlocks, kStep + 1>(operands, products);
  } else if constexpr (kStep < kSteps + kSumTiles) {
    constexpr int kLast = kStep - kSumTiles;
    if constexpr (kLast >= 0) store_tile<kLast % kSumTiles>(products[kLast], kTileRowBytes);
    multiply_stage<P, kPanels, kGroups, kBlocks, kStep + 1>(operands, products);
  }
}

// Adds products, `step` apart, of one panel and one group.
template <typename P, int kBlocks>
inline void add_products(const typename P::Weights* weights,
                         const typename P::Input* inputs,
                         const TileProduct* products,
                         int step,
                         TileTotals& totals) {
  __m512 sums[kTileRows];
#pragma GCC unroll 16
  for (int t = 0; t < kTileRows; ++t) sums[t] = _mm512_load_ps(totals[t]);
#pragma GCC unroll 1
  for (int b = 0; b < kBlocks; ++b) {
    const TileProduct& product = products[b * step];
#pragma GCC unroll 16
    for (int t = 0; t < kTileRows; ++t)
      sums[t] = P::add(weights[b], inputs[b], t, _mm512_load_si512(product[t]), sums[t]);
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTileRows; ++t) _mm512_store_ps(totals[t], sums[t]);
}

template <typename P, int kPanels, int kGroups, int kBlocks>
void run_stage(TileOperands<P>& operands, TileTotals (&totals)[2][2]) {
  constexpr int kEach = kPanels * kGroups;
  alignas(64) TileProduct products[kEach * kBlocks];
  multiply_stage<P, kPanels, kGroups, kBlocks>(operands, products);
  for (int g = 0; g < kGroups; ++g) {
    for (int p = 0; p < kPanels; ++p) {
      add_products<P, kBlocks>(
          operands.panels[p], operands.groups[g], products + g * kPanels + p, kEach, totals[g][p]);
    }
  }
  for (int p = 0; p < kPanels; ++p) operands.panels[p] += kBlocks;
  for (int g = 0; g < kGroups; ++g) operands.groups[g] += kBlocks;
}

/// A run of `count` blocks of one or two panels and of groups.
template <typename P>
struct TileRun {
  const typename P::Weights* panels;
  std::int64_t panel_step;  // blocks from panel to panel
  const typename P::Input* groups;
  std::int64_t group_step;
  std::int64_t count;
  std::int64_t tokens;  // that are left of y
  std::int64_t rows;    // that are left of y, of the second panel at least one
  bool resume;          // y is continued
  float* y;
  std::int64_t y_stride;
};

/// Of the run's first groups. A session with whole_tiles() must live.
template <typename P, int kPanels, int kGroups>
void tile_products(const TileRun<P>& run) {
  TileOperands<P> operands = {{run.panels, run.panels + run.panel_step},
                              {run.groups, run.groups + run.group_step}};
  alignas(64) TileTotals totals[2][2];
  for (int g = 0; g < kGroups; ++g) {
    for (int t = 0; t < kTileRows; ++t) {
      const std::int64_t token = g * kTileRows + t;
      for (int p = 0; p < kPanels; ++p) {
        const __mmask16 lanes =
            run.resume && token < run.tokens ? first_lanes(run.rows - p * kPanelRows) : __mmask16{0};
        _mm512_store_ps(totals[g][p][t],
                        _mm512_maskz_loadu_ps(
                            lanes, run.y + token * run.y_stride + p * kPanelRows));
      }
    }
  }
  std::int64_t count = run.count;
  for (; count >= kStage; count -= kStage) run_stage<P, kPanels, kGroups, kStage>(operands, totals);
  for (; count > 0; count -= P::kSmallStage)
    run_stage<P, kPanels, kGroups, P::kSmallStage>(operands, totals);
  for (int g = 0; g < kGroups; ++g) {
    for (int t = 0; t < kTileRows && g * kTileRows + t < run.tokens; ++t) {
      float* row = run.y + (g * kTileRows + t) * run.y_stride;
      for (int p = 0; p < kPanels; ++p) {
        _mm512_mask_storeu_ps(row + p * kPanelRows,
                              first_lanes(run.rows - p * kPanelRows),
                              _mm512_load_ps(totals[g][p][t]));
      }
    }
  }
}

/// The whole run.
template <typename P>
void tile_panels(TileRun<P> run) {
  const bool two = run.rows > kPanelRows;
  while (run.tokens > 0) {
    const int step = P::kGroups == 2 && two && run.tokens > kTileRows ? 2 : 1;
    const auto multiply = step == 2 ? tile_products<P, 2, P::kGroups>
                          : two     ? tile_products<P, 2, 1>
                                    : tile_products<P, 1, 1>;
    multiply(run);
    run.groups += step * run.group_step;
    run.tokens -= step * kTileRows;
    run.y += step * kTileRows * run.y_stride;
  }
}

}  // namespace
}  // namespace pocketvlm
