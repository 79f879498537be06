#pragma once

#include <cstdint>

/// AMX: eight tile registers of up to 16 rows of 64 bytes, and products of two of them. Written as
/// assembler, because the intrinsics of GCC 12 do not tell the compiler what they read: it drops
/// stores to a configuration that it thinks unused. Included by files compiled with AVX-512, hence
/// internal linkage.
namespace pocketvlm {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;

/// Sizes of the tile registers, as the processor reads them.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};

  constexpr void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<std::uint16_t>(bytes);
  }
};

/// All eight of them, 16 rows of 64 bytes.
constexpr TileShapes whole_tiles() {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTileRows, kTileRowBytes);
  return shapes;
}

/// While one lives, the tiles of this thread have these shapes.
class TileSession {
 public:
  explicit TileSession(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
  ~TileSession() { asm volatile("tilerelease"); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

/// `stride` bytes from row to row.
template <int kTile>
inline void load_tile(const void* p, std::int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(void* p, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

/// sums [rows, 16] += a [rows, 4 n] b [n, 16][4]: signed bytes; b unsigned; pairs of bfloat16.
template <int kSums, int kA, int kB>
inline void dot_signed() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
}
template <int kSums, int kA, int kB>
inline void dot_unsigned() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
}
template <int kSums, int kA, int kB>
inline void dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
}

}  // namespace
}  // namespace pocketvlm
