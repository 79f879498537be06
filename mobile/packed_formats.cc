#include "mobile/packed_formats.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "mobile/block_formats.h"

namespace pocketvlm {
namespace {

// Four bytes of row r at once.
void put(std::uint8_t (&target)[16][4], int row, const void* source) {
  std::memcpy(target[row], source, 4);
}

void pack_row(const BlockQ8_0* blocks, int row, PackedQ8_0& unit) {
  for (int j = 0; j < 2; ++j) {
    unit.d[j][row] = blocks[j].d;
    for (int v = 0; v < 8; ++v) {
      for (int i = 0; i < 4; ++i)
        unit.q[j][v][row][i] = static_cast<std::uint8_t>(blocks[j].q[4 * v + i] + 128);
    }
  }
}

template <typename Block, typename Unit>
void pack_nibbles(const Block* blocks, int row, Unit& unit) {
  for (int j = 0; j < 2; ++j) {
    unit.d[j][row] = blocks[j].d;
    for (int v = 0; v < 4; ++v) put(unit.qs[j][v], row, blocks[j].qs + 4 * v);
  }
}

void pack_row(const BlockQ4_0* blocks, int row, PackedQ4_0& unit) {
  pack_nibbles(blocks, row, unit);
}

void pack_row(const BlockQ4_1* blocks, int row, PackedQ4_1& unit) {
  pack_nibbles(blocks, row, unit);
  for (int j = 0; j < 2; ++j) unit.m[j][row] = blocks[j].m;
}

void pack_row(const BlockQ5_0* blocks, int row, PackedQ5_0& unit) {
  pack_nibbles(blocks, row, unit);
  for (int j = 0; j < 2; ++j) {
    std::uint32_t bits;
    std::memcpy(&bits, blocks[j].qh, 4);
    for (int v = 0; v < 8; ++v)
      unit.qh[j][v] |= static_cast<std::uint64_t>(bits >> (4 * v) & 15U) << (4 * row);
  }
}

void pack_row(const BlockQ4_K* block, int row, PackedQ4_K& unit) {
  unit.d[row] = block->d;
  unit.dmin[row] = block->dmin;
  for (int i = 0; i < 12; ++i) unit.scales[i][row] = block->scales[i];
  for (int g = 0; g < 4; ++g) {
    for (int v = 0; v < 8; ++v) put(unit.qs[g][v], row, block->qs + 32 * g + 4 * v);
  }
}

void pack_row(const BlockQ6_K* block, int row, PackedQ6_K& unit) {
  unit.d[row] = block->d;
  for (int k = 0; k < 16; ++k) unit.scales[k][row] = block->scales[k];
  for (int half = 0; half < 2; ++half) {
    for (int v = 0; v < 16; ++v) put(unit.ql[half][v], row, block->ql + 64 * half + 4 * v);
    for (int v = 0; v < 8; ++v) put(unit.qh[half][v], row, block->qh + 32 * half + 4 * v);
  }
}

template <typename Block, typename Unit>
void pack_rows(const void* source,
               std::int64_t row_bytes,
               std::int64_t rows,
               std::int64_t columns,
               void* panel) {
  constexpr int kBlocks = Unit::kColumns / Block::kElements;
  const std::int64_t count = columns / Unit::kColumns;
  auto* units = static_cast<Unit*>(panel);
  std::memset(panel, 0, static_cast<std::size_t>(count) * sizeof(Unit));
  // Unit by unit, so that what is written stays in the first-level cache.
  for (std::int64_t u = 0; u < count; ++u) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto* row = static_cast<const std::byte*>(source) + r * row_bytes;
      Block blocks[kBlocks];
      std::memcpy(blocks, row + u * static_cast<std::int64_t>(sizeof(blocks)), sizeof(blocks));
      pack_row(blocks, static_cast<int>(r), units[u]);
    }
  }
}

// Columns and bytes of one unit; zero columns where a type has no packed form.
struct UnitSize {
  std::int64_t columns;
  std::int64_t bytes;
};

template <typename Unit>
constexpr UnitSize kSize = {Unit::kColumns, static_cast<std::int64_t>(sizeof(Unit))};

UnitSize unit_size(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return kSize<PackedQ8_0>;
    case GgmlType::kQ4_0:
      return kSize<PackedQ4_0>;
    case GgmlType::kQ4_1:
      return kSize<PackedQ4_1>;
    case GgmlType::kQ5_0:
      return kSize<PackedQ5_0>;
    case GgmlType::kQ4_K:
      return kSize<PackedQ4_K>;
    case GgmlType::kQ6_K:
      return kSize<PackedQ6_K>;
    default:
      return {0, 0};
  }
}

}  // namespace

bool can_pack(GgmlType type, std::int64_t columns) {
  const std::int64_t unit = unit_size(type).columns;
  return unit > 0 && columns > 0 && columns % unit == 0;
}

std::int64_t panel_bytes(GgmlType type, std::int64_t columns) {
  assert(can_pack(type, columns));
  const UnitSize size = unit_size(type);
  return columns / size.columns * size.bytes;
}

void pack_panel(GgmlType type,
                const void* source,
                std::int64_t row_bytes,
                std::int64_t rows,
                std::int64_t columns,
                void* panel) {
  assert(can_pack(type, columns) && rows >= 1 && rows <= kPanelRows);
  switch (type) {
    case GgmlType::kQ8_0:
      return pack_rows<BlockQ8_0, PackedQ8_0>(source, row_bytes, rows, columns, panel);
    case GgmlType::kQ4_0:
      return pack_rows<BlockQ4_0, PackedQ4_0>(source, row_bytes, rows, columns, panel);
    case GgmlType::kQ4_1:
      return pack_rows<BlockQ4_1, PackedQ4_1>(source, row_bytes, rows, columns, panel);
    case GgmlType::kQ5_0:
      return pack_rows<BlockQ5_0, PackedQ5_0>(source, row_bytes, rows, columns, panel);
    case GgmlType::kQ4_K:
      return pack_rows<BlockQ4_K, PackedQ4_K>(source, row_bytes, rows, columns, panel);
    default:
      return pack_rows<BlockQ6_K, PackedQ6_K>(source, row_bytes, rows, columns, panel);
  }
}

std::int64_t int8_columns(std::int64_t columns) {
  constexpr std::int64_t kUnit = PackedInt8::kColumns;
  return (columns + kUnit - 1) / kUnit * kUnit;
}

std::int64_t int8_panel_bytes(std::int64_t columns) {
  return int8_columns(columns) / PackedInt8::kColumns *
         static_cast<std::int64_t>(sizeof(PackedInt8));
}

void pack_int8_panel(GgmlType type,
                     const void* source,
                     std::int64_t row_bytes,
                     std::int64_t rows,
                     std::int64_t columns,
                     void* panel) {
  assert(rows >= 1 && rows <= kPanelRows);
  const std::int64_t count = int8_columns(columns) / PackedInt8::kColumns;
  auto* units = static_cast<PackedInt8*>(panel);
  std::vector<float> row(static_cast<std::size_t>(count * PackedInt8::kColumns));
  for (std::int64_t r = 0; r < kPanelRows; ++r) {
    std::fill(row.begin(), row.end(), 0.0F);
    if (r < rows)
      dequantize_row(
          type, static_cast<const std::byte*>(source) + r * row_bytes, columns, row.data());
    for (std::int64_t u = 0; u < count; ++u) {
      const float* x = &row[static_cast<std::size_t>(u * PackedInt8::kColumns)];
      float largest = 0.0F;
      for (int i = 0; i < PackedInt8::kColumns; ++i) largest = std::max(largest, std::fabs(x[i]));
      const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
      units[u].scale[r] = largest / 127.0F;
      for (int i = 0; i < PackedInt8::kColumns; ++i) {
        const int level = static_cast<int>(std::nearbyint(x[i] * inverse));
        units[u].q[i / 4][r][i % 4] = static_cast<std::uint8_t>(level + 128);
      }
    }
  }
}

}  // namespace pocketvlm
