#include "base/amx_tiles.h"
#include "mobile/attention_bf16.h"

// Panels are what AMX wants of the second factor as they are. Compiled as attention_avx512bf16.cc:
// nothing with external linkage but the function of kernels_simd.h.
namespace pocketvlm {
namespace {

constexpr int kTilePairs = 16;

// Tiles 0 and 1 are sums of two panels; 2 rows, 3 and 4 panels of 16 pairs; 5, 6 and 7 the same for
// the pairs that are left.
TileShapes product_shapes(int rest) {
  TileShapes shapes;
  for (int tile = 0; tile < 5; ++tile) shapes.set(tile, kTileRows, kTileRowBytes);
  if (rest == 0) return shapes;
  shapes.set(5, kTileRows, 4 * rest);
  shapes.set(6, rest, kTileRowBytes);
  shapes.set(7, rest, kTileRowBytes);
  return shapes;
}

template <int kPanels>
void multiply_panels(
    const Pair* panels, std::int64_t count, const Pair* rows, std::int64_t pairs, float* y) {
  const std::int64_t row_bytes = 4 * pairs;
  const Pair* second = panels + pairs * kLanes;
  clear_tile<0>();
  if constexpr (kPanels == 2) clear_tile<1>();
  std::int64_t i = 0;
  for (; i + kTilePairs <= pairs; i += kTilePairs) {
    load_tile<2>(rows + i, row_bytes);
    load_tile<3>(panels + i * kLanes, kTileRowBytes);
    dot_bf16<0, 2, 3>();
    if constexpr (kPanels == 2) {
      load_tile<4>(second + i * kLanes, kTileRowBytes);
      dot_bf16<1, 2, 4>();
    }
  }
  if (i < pairs) {
    load_tile<5>(rows + i, row_bytes);
    load_tile<6>(panels + i * kLanes, kTileRowBytes);
    dot_bf16<0, 5, 6>();
    if constexpr (kPanels == 2) {
      load_tile<7>(second + i * kLanes, kTileRowBytes);
      dot_bf16<1, 5, 7>();
    }
  }
  store_tile<0>(y, count * kTileRowBytes);
  if constexpr (kPanels == 2) store_tile<1>(y + kLanes, count * kTileRowBytes);
}

struct TileProduct {
  static constexpr int kQueries = kTileRows;

  // Rows beyond `tokens` are computed, too: nobody reads them.
  static void multiply(const Pair* panels,
                       std::int64_t count,
                       const Pair* rows,
                       std::int64_t pairs,
                       int /*tokens*/,
                       float* y) {
    const TileShapes shapes = product_shapes(static_cast<int>(pairs % kTilePairs));
    const TileSession session(shapes);
    std::int64_t p = 0;
    for (; p + 2 <= count; p += 2)
      multiply_panels<2>(panels + p * pairs * kLanes, count, rows, pairs, y + p * kLanes);
    if (p < count)
      multiply_panels<1>(panels + p * pairs * kLanes, count, rows, pairs, y + p * kLanes);
  }
};

}  // namespace

void amx_attend(const AttentionHead& head) { attend_bf16<TileProduct>(head); }

}  // namespace pocketvlm
