#pragma once

#include <cstdint>
#include <cstring>

#include "mobile/block_formats.h"
#include "mobile/quants.h"

/// Blocks as unsigned levels with, for each 16 of them, x = scale * level + offset: the one form
/// that the plain loops and the batched vector kernels compute with. Included by files with
/// different instruction sets, hence everything has internal linkage.
namespace pocketvlm {
namespace {

template <typename Block>
struct Unpacked {
  std::uint8_t levels[Block::kElements];
  float scale[Block::kElements / 16];
  float offset[Block::kElements / 16];
};

inline void fill_pair(float* pair, float value) { pair[0] = pair[1] = value; }

template <typename Block>
inline void unpack_nibbles(const Block& block, std::uint8_t* levels) {
  for (int j = 0; j < 16; ++j) {
    levels[j] = block.qs[j] & 15;
    levels[j + 16] = block.qs[j] >> 4;
  }
}

template <typename Block>
inline void add_fifth_bits(const Block& block, std::uint8_t* levels) {
  std::uint32_t bits;
  std::memcpy(&bits, block.qh, 4);
  for (int e = 0; e < 32; ++e)
    levels[e] = static_cast<std::uint8_t>(levels[e] | (bits >> e & 1) << 4);
}

inline void unpack(const BlockQ8_0& block, Unpacked<BlockQ8_0>& out) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < 32; ++i) out.levels[i] = static_cast<std::uint8_t>(block.q[i] + 128);
  fill_pair(out.scale, d);
  fill_pair(out.offset, -128.0F * d);
}

inline void unpack(const BlockQ4_0& block, Unpacked<BlockQ4_0>& out) {
  const float d = half_to_float(block.d);
  unpack_nibbles(block, out.levels);
  fill_pair(out.scale, d);
  fill_pair(out.offset, -8.0F * d);
}

inline void unpack(const BlockQ4_1& block, Unpacked<BlockQ4_1>& out) {
  unpack_nibbles(block, out.levels);
  fill_pair(out.scale, half_to_float(block.d));
  fill_pair(out.offset, half_to_float(block.m));
}

inline void unpack(const BlockQ5_0& block, Unpacked<BlockQ5_0>& out) {
  const float d = half_to_float(block.d);
  unpack_nibbles(block, out.levels);
  add_fifth_bits(block, out.levels);
  fill_pair(out.scale, d);
  fill_pair(out.offset, -16.0F * d);
}

inline void unpack(const BlockQ5_1& block, Unpacked<BlockQ5_1>& out) {
  unpack_nibbles(block, out.levels);
  add_fifth_bits(block, out.levels);
  fill_pair(out.scale, half_to_float(block.d));
  fill_pair(out.offset, half_to_float(block.m));
}

template <typename Block>
inline void unpack_affine(const Block& block, Unpacked<Block>& out) {
  const float d = half_to_float(block.d);
  const float dmin = half_to_float(block.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin pair = unpack_scale_min(block.scales, j);
    fill_pair(out.scale + 2 * j, d * static_cast<float>(pair.scale));
    fill_pair(out.offset + 2 * j, -dmin * static_cast<float>(pair.min));
  }
  for (int g = 0; g < 4; ++g) {
    for (int l = 0; l < 32; ++l) {
      out.levels[64 * g + l] = block.qs[32 * g + l] & 15;
      out.levels[64 * g + 32 + l] = block.qs[32 * g + l] >> 4;
    }
  }
}

inline void unpack(const BlockQ4_K& block, Unpacked<BlockQ4_K>& out) { unpack_affine(block, out); }

inline void unpack(const BlockQ5_K& block, Unpacked<BlockQ5_K>& out) {
  unpack_affine(block, out);
  for (int j = 0; j < 8; ++j) {
    for (int l = 0; l < 32; ++l) {
      std::uint8_t& level = out.levels[32 * j + l];
      level = static_cast<std::uint8_t>(level | (block.qh[l] >> j & 1) << 4);
    }
  }
}

inline void unpack(const BlockQ6_K& block, Unpacked<BlockQ6_K>& out) {
  const float d = half_to_float(block.d);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* low = block.ql + 64 * half;
    const std::uint8_t* high = block.qh + 32 * half;
    std::uint8_t* levels = out.levels + 128 * half;
    for (int l = 0; l < 32; ++l) {
      levels[l] = static_cast<std::uint8_t>((low[l] & 15) | (high[l] & 3) << 4);
      levels[l + 32] = static_cast<std::uint8_t>((low[l + 32] & 15) | (high[l] >> 2 & 3) << 4);
      levels[l + 64] = static_cast<std::uint8_t>((low[l] >> 4) | (high[l] >> 4 & 3) << 4);
      levels[l + 96] = static_cast<std::uint8_t>((low[l + 32] >> 4) | (high[l] >> 6) << 4);
    }
  }
  for (int k = 0; k < 16; ++k) {
    out.scale[k] = d * static_cast<float>(block.scales[k]);
    out.offset[k] = -32.0F * out.scale[k];
  }
}

}  // namespace
}  // namespace pocketvlm
