#pragma once

#include <cstdint>

#include "mobile/quants.h"

/// Quantized matrices with 16 neighbouring rows interleaved: a panel. Four neighbouring levels of
/// every row lie side by side, so that one instruction multiplies 16 rows with the same four
/// inputs, and weights stream through in one run. A panel is as large as its rows in the file
/// (Q6_K: 1 % more). Rows beyond the last one are zero.
///
/// Indices: [.. 32 columns ..][four of them][row][one of the four]; units start on cache lines.
namespace pocketvlm {

constexpr int kPanelRows = 16;

struct alignas(64) PackedQ8_0 {  // x = d (q - 128)
  static constexpr GgmlType kType = GgmlType::kQ8_0;
  static constexpr int kColumns = 64;
  std::uint16_t d[2][16];
  std::uint8_t q[2][8][16][4];
};

struct alignas(64) PackedQ4_0 {  // low nibbles: columns 0..15 of the 32, high ones: 16..31
  static constexpr GgmlType kType = GgmlType::kQ4_0;
  static constexpr int kColumns = 64;
  std::uint16_t d[2][16];
  std::uint8_t qs[2][4][16][4];
};

struct alignas(64) PackedQ4_1 {
  static constexpr GgmlType kType = GgmlType::kQ4_1;
  static constexpr int kColumns = 64;
  std::uint16_t d[2][16];
  std::uint16_t m[2][16];
  std::uint8_t qs[2][4][16][4];
};

struct alignas(64) PackedQ5_0 {
  static constexpr GgmlType kType = GgmlType::kQ5_0;
  static constexpr int kColumns = 64;
  std::uint16_t d[2][16];
  std::uint64_t qh[2][8];  // bit 4 row + i: fifth bit of column 4 v + i
  std::uint8_t qs[2][4][16][4];
};

struct alignas(64) PackedQ4_K {
  static constexpr GgmlType kType = GgmlType::kQ4_K;
  static constexpr int kColumns = 256;
  std::uint16_t d[16];
  std::uint16_t dmin[16];
  std::uint8_t scales[12][16];   // bytes as in the file
  std::uint8_t qs[4][8][16][4];  // low nibbles: even sub-block of a pair, high ones: the odd
};

struct alignas(64) PackedQ6_K {
  static constexpr GgmlType kType = GgmlType::kQ6_K;
  static constexpr int kColumns = 256;
  std::uint8_t ql[2][16][16][4];  // low nibbles: columns 0..63 of the 128, high ones: 64..127
  std::uint8_t qh[2][8][16][4];   // two bits for each 32 columns of the 128
  std::int8_t scales[16][16];
  std::uint16_t d[16];
  std::uint16_t unused[16];
};

/// Any matrix rounded to eight bits for products with inputs of eight bits: one scale for 128
/// columns of a row, so that integer sums run long. Missing columns are zero.
struct alignas(64) PackedInt8 {  // x = scale (q - 128)
  static constexpr int kColumns = 128;
  float scale[16];
  std::uint8_t q[32][16][4];
};

static_assert(sizeof(PackedQ8_0) == 16 * 2 * 34 && sizeof(PackedQ4_0) == 16 * 2 * 18);
static_assert(sizeof(PackedQ4_1) == 16 * 2 * 20 && sizeof(PackedQ5_0) == 16 * 2 * 22);
static_assert(sizeof(PackedQ4_K) == 16 * 144 && sizeof(PackedQ6_K) == 16 * 212);

/// Whether rows of this type and length can be packed.
bool can_pack(GgmlType type, std::int64_t columns);

/// Bytes of a panel of 16 rows.
std::int64_t panel_bytes(GgmlType type, std::int64_t columns);

/// Interleaves `rows` (1 to 16) rows of the file format, `row_bytes` apart.
void pack_panel(GgmlType type,
                const void* source,
                std::int64_t row_bytes,
                std::int64_t rows,
                std::int64_t columns,
                void* panel);

/// The same for PackedInt8, from rows of any type that can be computed with.
std::int64_t int8_panel_bytes(std::int64_t columns);
void pack_int8_panel(GgmlType type,
                     const void* source,
                     std::int64_t row_bytes,
                     std::int64_t rows,
                     std::int64_t columns,
                     void* panel);

/// Columns after rounding up to whole units of PackedInt8.
std::int64_t int8_columns(std::int64_t columns);

}  // namespace pocketvlm
