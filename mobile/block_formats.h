#pragma once

#include <cstdint>

/// Byte layouts of the quantized blocks as they lie in GGUF files (little-endian, no padding), and
/// the searches for the scales of the 256-element blocks. Blocks in a mapped file are aligned to 2
/// bytes at least, so the 16-bit fields may be read in place.
namespace pocketvlm {

struct BlockQ8_0 {  // x = d q
  static constexpr int kElements = 32;
  std::uint16_t d;
  std::int8_t q[32];
};

struct BlockQ4_0 {  // x = d (q - 8); byte j: element j low, j + 16 high
  static constexpr int kElements = 32;
  std::uint16_t d;
  std::uint8_t qs[16];
};

struct BlockQ4_1 {  // x = d q + m
  static constexpr int kElements = 32;
  std::uint16_t d;
  std::uint16_t m;
  std::uint8_t qs[16];
};

struct BlockQ5_0 {  // x = d (q - 16); bit e of qh is the fifth bit of element e
  static constexpr int kElements = 32;
  std::uint16_t d;
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};

struct BlockQ5_1 {  // x = d q + m
  static constexpr int kElements = 32;
  std::uint16_t d;
  std::uint16_t m;
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};

struct BlockQ4_K {  // eight sub-blocks of 32: x = d scale q - dmin min
  static constexpr int kElements = 256;
  std::uint16_t d;
  std::uint16_t dmin;
  std::uint8_t scales[12];  // eight pairs of 6 bits
  std::uint8_t qs[128];     // 32 bytes a pair of sub-blocks: even one low, odd one high
};

struct BlockQ5_K {
  static constexpr int kElements = 256;
  std::uint16_t d;
  std::uint16_t dmin;
  std::uint8_t scales[12];
  std::uint8_t qh[32];  // bit j of qh[l]: fifth bit of element l of sub-block j
  std::uint8_t qs[128];
};

struct BlockQ6_K {  // sixteen sub-blocks of 16: x = d scale (q - 32)
  static constexpr int kElements = 256;
  std::uint8_t ql[128];
  std::uint8_t qh[64];
  std::int8_t scales[16];
  std::uint16_t d;
};

static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

/// The 6-bit pair of sub-block j (0..7) of Q4_K and Q5_K.
struct ScaleMin {
  int scale;
  int min;
};

inline ScaleMin unpack_scale_min(const std::uint8_t* b, int j) {
  if (j < 4) return {b[j] & 63, b[j + 4] & 63};
  return {(b[j + 4] & 15) | (b[j - 4] >> 6) << 4, (b[j + 4] >> 4) | (b[j] >> 6) << 4};
}

inline void pack_scale_min(std::uint8_t* b, int j, ScaleMin pair) {
  if (j < 4) {
    b[j] = static_cast<std::uint8_t>((b[j] & 0xC0) | pair.scale);
    b[j + 4] = static_cast<std::uint8_t>((b[j + 4] & 0xC0) | pair.min);
  } else {
    b[j + 4] = static_cast<std::uint8_t>((pair.scale & 15) | (pair.min & 15) << 4);
    b[j - 4] = static_cast<std::uint8_t>(b[j - 4] | (pair.scale >> 4) << 6);
    b[j] = static_cast<std::uint8_t>(b[j] | (pair.min >> 4) << 6);
  }
}

/// Level 0..63 of element e (0..255).
inline int q6_k_level(const BlockQ6_K& block, int e) {
  const int half = e / 128;
  const int quarter = e % 128 / 32;
  const int l = e % 32;
  const std::uint8_t low = block.ql[64 * half + 32 * (quarter % 2) + l];
  const int low4 = quarter < 2 ? low & 15 : low >> 4;
  const int high2 = block.qh[32 * half + l] >> (2 * quarter) & 3;
  return low4 | high2 << 4;
}

/// Searches for scales and quantizes 256 values; `importance` [256] or nullptr for the reference
/// rules.
void quantize_q4_k(const float* x, const float* importance, BlockQ4_K& block);
void quantize_q5_k(const float* x, const float* importance, BlockQ5_K& block);
void quantize_q6_k(const float* x, const float* importance, BlockQ6_K& block);

}  // namespace pocketvlm
