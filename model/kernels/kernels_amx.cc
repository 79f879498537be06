#include "base/amx_tiles.h"
#include "model/kernels/pair_attention_body.h"

/// The table of avx512bf16 with products in AMX tiles. A row's sums run along the depth in one order, whatever rows are
/// beside it.
namespace pocketvlm::kernels {

extern const Table kAmxTable;

namespace {

constexpr int64_t kGroup = 16;             // rows of a tile
constexpr int64_t kDepth = 32;             // of one product of tiles

/// Tiles 0 to 3 are sums, [group of rows][half of the panel]; 4 and 5 rows of x; 6 and 7 halves of the weights.
TileShapes shapes_of(int64_t rows) {
  TileShapes shapes;
  for (int group = 0; group < 2; ++group) {
    const auto here = static_cast<int>(smaller(kGroup, rows - group * kGroup));
    if (here <= 0) break;
    shapes.set(2 * group, here, pocketvlm::kTileRowBytes);
    shapes.set(2 * group + 1, here, pocketvlm::kTileRowBytes);
    shapes.set(4 + group, here, pocketvlm::kTileRowBytes);
  }
  shapes.set(6, kGroup, pocketvlm::kTileRowBytes);
  shapes.set(7, kGroup, pocketvlm::kTileRowBytes);
  return shapes;
}

/// PairProduct in tiles of 16 by 16 sums, up to two by two of them at a time.
class TileProducts {
 public:
  template <bool kAdd>
  void multiply(const PairProduct& p, int64_t rows, int64_t columns, int64_t depth) const {
    for (int64_t row = 0; row < rows; row += 2 * kGroup) {
      const bool two_rows = row + kGroup < rows;
      for (int64_t column = 0; column < columns; column += 2 * kGroup) {
        const bool two_columns = column + kGroup < columns;
        const auto square = two_rows ? (two_columns ? square_of<true, true, kAdd> : square_of<true, false, kAdd>)
                                     : (two_columns ? square_of<false, true, kAdd> : square_of<false, false, kAdd>);
        square(p, row, column, depth);
      }
    }
  }

  /// One or two tiles' rows from `row`, and as many columns.
  template <bool kTwoRows, bool kTwoColumns, bool kAdd>
  static void square_of(const PairProduct& p, int64_t row, int64_t column, int64_t depth) {
    const int64_t a_stride = 2 * p.a_row, b_stride = 4 * p.b_row, c_stride = 4 * p.c_row;
    float* const c = p.c + row * p.c_row + column;
    float* const c_below = c + kGroup * p.c_row;
    start<0, kAdd>(c, c_stride);
    if constexpr (kTwoColumns) start<1, kAdd>(c + kGroup, c_stride);
    if constexpr (kTwoRows) start<2, kAdd>(c_below, c_stride);
    if constexpr (kTwoRows && kTwoColumns) start<3, kAdd>(c_below + kGroup, c_stride);
    for (int64_t d = 0; d < depth; d += kDepth) {
      const std::uint16_t* const a = p.a + row * p.a_row + d;
      const std::uint32_t* const b = p.b + d / 2 * p.b_row + column;
      load_tile<4>(a, a_stride);
      load_tile<6>(b, b_stride);
      dot_bf16<0, 4, 6>();
      if constexpr (kTwoColumns) {
        load_tile<7>(b + kGroup, b_stride);
        dot_bf16<1, 4, 7>();
      }
      if constexpr (kTwoRows) {
        load_tile<5>(a + kGroup * p.a_row, a_stride);
        dot_bf16<2, 5, 6>();
        if constexpr (kTwoColumns) dot_bf16<3, 5, 7>();
      }
    }
    store_tile<0>(c, c_stride);
    if constexpr (kTwoColumns) store_tile<1>(c + kGroup, c_stride);
    if constexpr (kTwoRows) store_tile<2>(c_below, c_stride);
    if constexpr (kTwoRows && kTwoColumns) store_tile<3>(c_below + kGroup, c_stride);
  }

 private:
  template <int kTile, bool kAdd>
  static void start(const float* c, int64_t stride) {
    if constexpr (kAdd) {
      load_tile<kTile>(c, stride);
    } else {
      clear_tile<kTile>();
    }
  }

  TileShapes shapes_ = shapes_of(2 * kGroup);
  TileSession session_{shapes_};
};

/// `rows` (up to two groups, as the tiles' shapes are) times a panel.
template <bool kTwoGroups>
void tile_panel(const PackedProduct& a, int64_t row, int64_t rows, int64_t panel) {
  const int64_t pairs = (a.depth + 1) / 2, whole = a.depth / kDepth * kDepth;
  const auto* weights = static_cast<const std::uint32_t*>(a.panels) + panel * pairs * kPanelColumns;
  const auto* x = static_cast<const std::uint16_t*>(a.x) + row * a.depth;
  alignas(64) float sums[2 * kGroup][kPanelColumns];
  TileProducts::square_of<kTwoGroups, true, false>({x, a.depth, weights, kPanelColumns, sums[0], kPanelColumns}, 0, 0, whole);
  if (const int64_t rest = a.depth - whole; rest > 0) {
    alignas(64) std::uint16_t x_rest[2 * kGroup][kDepth] = {};
    alignas(64) std::uint32_t weights_rest[kDepth / 2][kPanelColumns] = {};
    for (int64_t r = 0; r < rows; ++r) std::memcpy(x_rest[r], x + r * a.depth + whole, static_cast<std::size_t>(2 * rest));
    std::memcpy(weights_rest, weights + whole / 2 * kPanelColumns, static_cast<std::size_t>((rest + 1) / 2 * kPanelColumns) * sizeof(weights[0]));
    TileProducts::square_of<kTwoGroups, true, true>({x_rest[0], kDepth, weights_rest[0], kPanelColumns, sums[0], kPanelColumns}, 0, 0, kDepth);
  }
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t column = panel * kPanelColumns + half * kLanes;
    const int64_t n = smaller(kLanes, a.columns - column);
    if (n <= 0) break;
    const Floats bias = a.bias != nullptr ? load_lanes(a.bias + column, n) : Floats{};
    for (int64_t r = 0; r < rows; ++r) {
      store_lanes(static_cast<Bf16*>(a.y) + (row + r) * a.columns + column, load(sums[r] + half * kLanes) + bias, n);
    }
  }
}

void tile_product(const PackedProduct& a, int64_t panel_begin, int64_t panel_end) {
  const int64_t whole = a.rows / (2 * kGroup) * 2 * kGroup, rest = a.rows - whole;
  if (whole > 0) {
    const TileShapes shapes = shapes_of(2 * kGroup);
    const TileSession session(shapes);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      for (int64_t row = 0; row < whole; row += 2 * kGroup) tile_panel<true>(a, row, 2 * kGroup, panel);
    }
  }
  if (rest == 0) return;
  const TileShapes shapes = shapes_of(rest);
  const TileSession session(shapes);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    (rest > kGroup ? tile_panel<true> : tile_panel<false>)(a, whole, rest, panel);
  }
}

constexpr Table amx_table() {
  Table table = make_table("amx");
  use_pair_attention<TileProducts>(table);
  table.packed_product = tile_product;
  return table;
}

}  // namespace

const Table kAmxTable = amx_table();

}  // namespace pocketvlm::kernels
