#pragma once

#include <arm_neon.h>

#include "mobile/int8_kernels.h"
#include "mobile/kernels_simd.h"
#include "mobile/packed_kernels.h"
#include "mobile/packed_neon.h"
#include "mobile/panel_kernels.h"
#include "mobile/vector_kernels.h"

/// The ARM kernels, written once over D, the way to multiply bytes:
///   D::dot(sum, a, b)  adds to each of four lanes the four products of its bytes
/// Included by files with different instruction sets, hence internal linkage.
namespace pocketvlm {
namespace {

struct Vector128 {
  using Type = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kRows = 4;
  static constexpr int kTokens = 4;

  static Type zero() { return vdupq_n_f32(0.0F); }
  static Type set1(float value) { return vdupq_n_f32(value); }
  static Type load(const float* p) { return vld1q_f32(p); }
  static Type load_part(const float* p, std::int64_t n) {
    float padded[kLanes] = {};
    __builtin_memcpy(padded, p, static_cast<std::size_t>(4 * n));
    return vld1q_f32(padded);
  }
  static void store(float* p, Type v) { vst1q_f32(p, v); }
  static void store_part(float* p, Type v, std::int64_t n) {
    float all[kLanes];
    vst1q_f32(all, v);
    __builtin_memcpy(p, all, static_cast<std::size_t>(4 * n));
  }
  static Type load_f16(const std::uint8_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
  }
  static void store_halves(std::uint16_t* p, Type v) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
  }
  static Type load_bf16(const std::uint8_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
  }
  static Type add(Type a, Type b) { return vaddq_f32(a, b); }
  static Type sub(Type a, Type b) { return vsubq_f32(a, b); }
  static Type mul(Type a, Type b) { return vmulq_f32(a, b); }
  static Type div(Type a, Type b) { return vdivq_f32(a, b); }
  static Type fma(Type a, Type b, Type c) { return vfmaq_f32(c, a, b); }
  static Type max(Type a, Type b) { return vmaxq_f32(a, b); }
  static Type min(Type a, Type b) { return vminq_f32(a, b); }
  static Type abs(Type a) { return vabsq_f32(a); }
  static Type round(Type a) { return vrndnq_f32(a); }
  static Type pow2(Type n) {
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
  }
  static float sum(Type a) { return vaddvq_f32(a); }
  static float largest(Type a) { return vmaxvq_f32(a); }
  static Type select_negative(Type x, Type if_negative, Type otherwise) {
    return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(x)), if_negative, otherwise);
  }
};

// Four rows beside each other. Levels of all types fit a signed byte once those of Q8_0 are signed.
template <typename D>
struct Panel128 {
  static constexpr int kRows = 4;
  static constexpr int kTokens = 8;
  static constexpr bool kSignedLevels = true;
  using Int = int32x4_t;
  using Levels = int8x16_t;
  using Float = float32x4_t;

  static Int zero_int() { return vdupq_n_s32(0); }
  static Levels load_levels(const std::uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
  template <typename Block>
  static Int dot(Int sum, Levels levels, const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    return D::dot(sum, levels, vreinterpretq_s8_s32(vdupq_n_s32(four)));
  }
  static Float to_float(Int v) { return vcvtq_f32_s32(v); }
  static Float zero() { return Vector128::zero(); }
  static Float set1(float value) { return Vector128::set1(value); }
  static Float load(const float* p) { return Vector128::load(p); }
  static Float mul(Float a, Float b) { return Vector128::mul(a, b); }
  static Float fma(Float a, Float b, Float c) { return Vector128::fma(a, b, c); }
  static void store(float* p, Float v) { Vector128::store(p, v); }
  static void store_part(float* p, Float v, std::int64_t n) { Vector128::store_part(p, v, n); }
};

float half(std::uint16_t bits) {
  __fp16 value;
  __builtin_memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

// 32 levels of a block as signed bytes, the first 16 and the others.
struct Levels32 {
  int8x16_t first;
  int8x16_t second;
};

Levels32 nibbles(const std::uint8_t* qs) {
  const uint8x16_t packed = vld1q_u8(qs);
  return {vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15))),
          vreinterpretq_s8_u8(vshrq_n_u8(packed, 4))};
}

Levels32 with_fifth_bits(Levels32 levels, const std::uint8_t* qh) {
  return {vorrq_s8(levels.first, sixteen_where_set(qh)),
          vorrq_s8(levels.second, sixteen_where_set(qh + 2))};
}

Levels32 levels_of(const BlockQ8_0& block) { return {vld1q_s8(block.q), vld1q_s8(block.q + 16)}; }
Levels32 levels_of(const BlockQ4_0& block) { return nibbles(block.qs); }
Levels32 levels_of(const BlockQ4_1& block) { return nibbles(block.qs); }
Levels32 levels_of(const BlockQ5_0& block) { return with_fifth_bits(nibbles(block.qs), block.qh); }
Levels32 levels_of(const BlockQ5_1& block) { return with_fifth_bits(nibbles(block.qs), block.qh); }

template <typename D>
int32x4_t dot_levels(const Levels32& levels, const std::int8_t* x) {
  return D::dot(D::dot(vdupq_n_s32(0), levels.first, vld1q_s8(x)), levels.second, vld1q_s8(x + 16));
}

// What makes x = d level + constant of a level: a stored m, or a multiple of d.
template <typename Block>
float constant_of(const Block& block, float d) {
  if constexpr (requires { block.m; })
    return half(block.m);
  else if constexpr (sizeof(Block) == sizeof(BlockQ4_0))
    return -8.0F * d;
  else if constexpr (sizeof(Block) == sizeof(BlockQ5_0))
    return -16.0F * d;
  else
    return 0.0F;
}

template <typename D, typename Block>
float dot_blocks(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  const std::int64_t count = input.columns / 32;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * count;
  const float* sums = input.sums32 + token * count;
  float32x4_t total = vdupq_n_f32(0.0F);
  float constant = 0.0F;
  for (std::int64_t b = 0; b < count; ++b) {
    const float d = half(blocks[b].d);
    const int32x4_t dot = dot_levels<D>(levels_of(blocks[b]), x + 32 * b);
    total = vfmaq_n_f32(total, vcvtq_f32_s32(dot), d * scales[b]);
    constant += constant_of(blocks[b], d) * sums[b];
  }
  return vaddvq_f32(total) + constant;
}

// Sub-block j of a K block with scale and minimum.
template <typename Block>
Levels32 affine_levels(const Block& block, int j) {
  Levels32 levels;
  int8x16_t* halves[2] = {&levels.first, &levels.second};
  for (int h = 0; h < 2; ++h) {
    const uint8x16_t packed = vld1q_u8(block.qs + 32 * (j / 2) + 16 * h);
    uint8x16_t level = j % 2 == 0 ? vandq_u8(packed, vdupq_n_u8(15)) : vshrq_n_u8(packed, 4);
    if constexpr (requires { block.qh; }) {
      const uint8x16_t bit = vdupq_n_u8(static_cast<std::uint8_t>(1 << j));
      const uint8x16_t set = vtstq_u8(vld1q_u8(block.qh + 16 * h), bit);
      level = vorrq_u8(level, vandq_u8(set, vdupq_n_u8(16)));
    }
    *halves[h] = vreinterpretq_s8_u8(level);
  }
  return levels;
}

template <typename D, typename Block>
float dot_affine(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  const std::int64_t count = input.columns / 256;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * 8 * count;
  const float* sums = input.sums32 + token * 8 * count;
  float32x4_t total = vdupq_n_f32(0.0F);
  float constant = 0.0F;
  for (std::int64_t b = 0; b < count; ++b) {
    const float d = half(blocks[b].d);
    const float dmin = half(blocks[b].dmin);
    for (int j = 0; j < 8; ++j) {
      const ScaleMin pair = unpack_scale_min(blocks[b].scales, j);
      const int32x4_t dot = dot_levels<D>(affine_levels(blocks[b], j), x + 256 * b + 32 * j);
      const float product = d * static_cast<float>(pair.scale) * scales[8 * b + j];
      total = vfmaq_n_f32(total, vcvtq_f32_s32(dot), product);
      constant += dmin * static_cast<float>(pair.min) * sums[8 * b + j];
    }
  }
  return vaddvq_f32(total) - constant;
}

// 16 levels of Q6_K: part 0..15 of the block.
int8x16_t q6_k_levels(const BlockQ6_K& block, int part) {
  const int group = part / 2;  // of 32
  const int quarter = group % 4;
  const int offset = 16 * (part % 2);
  const uint8x16_t low = vld1q_u8(block.ql + 64 * (group / 4) + 32 * (quarter % 2) + offset);
  const uint8x16_t high = vld1q_u8(block.qh + 32 * (group / 4) + offset);
  const uint8x16_t four = quarter < 2 ? vandq_u8(low, vdupq_n_u8(15)) : vshrq_n_u8(low, 4);
  const int8x16_t down = vdupq_n_s8(static_cast<std::int8_t>(-2 * quarter));
  const uint8x16_t two = vandq_u8(vshlq_u8(high, down), vdupq_n_u8(3));
  return vreinterpretq_s8_u8(vorrq_u8(four, vshlq_n_u8(two, 4)));
}

template <typename D>
float dot_q6_k(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const BlockQ6_K*>(row);
  const std::int64_t count = input.columns / 256;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * 8 * count;
  const float* sums = input.sums16 + token * 16 * count;
  float32x4_t total = vdupq_n_f32(0.0F);
  float constant = 0.0F;
  for (std::int64_t b = 0; b < count; ++b) {
    const float d = half(blocks[b].d);
    for (int part = 0; part < 16; ++part) {
      const float factor = d * static_cast<float>(blocks[b].scales[part]);
      const int8x16_t inputs = vld1q_s8(x + 256 * b + 16 * part);
      const int32x4_t dot = D::dot(vdupq_n_s32(0), q6_k_levels(blocks[b], part), inputs);
      total = vfmaq_n_f32(total, vcvtq_f32_s32(dot), factor * scales[8 * b + part / 2]);
      constant += factor * sums[16 * b + part];
    }
  }
  return vaddvq_f32(total) - 32.0F * constant;
}

// Rounded half to even. Infinity and NaN, which damaged weights lead to, become 0 in every kernel
// table.
int32x4_t levels_within_127(float32x4_t values, float inverse) {
  const float32x4_t level = vrndnq_f32(vmulq_n_f32(values, inverse));
  const uint32x4_t finite = vcaleq_f32(level, vdupq_n_f32(127.0F));
  return vandq_s32(vcvtq_s32_f32(level), vreinterpretq_s32_u32(finite));
}

void quantize_vector(const float* x, std::int64_t n, const QuantizedRow& out) {
  for (std::int64_t b = 0; b < n / 32; ++b) {
    float32x4_t v[8];
    float32x4_t top = vdupq_n_f32(0.0F);
    for (int k = 0; k < 8; ++k) {
      v[k] = vld1q_f32(x + 32 * b + 4 * k);
      // The larger number, as std::max of the plain loop: a NaN is passed over.
      top = vmaxnmq_f32(top, vabsq_f32(v[k]));
    }
    const float largest = vmaxnmvq_f32(top);
    const float scale = largest / 127.0F;
    const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
    std::int32_t sums[2];
    for (int h = 0; h < 2; ++h) {
      int32x4_t q[4];
      for (int k = 0; k < 4; ++k) q[k] = levels_within_127(v[4 * h + k], inverse);
      sums[h] = vaddvq_s32(vaddq_s32(vaddq_s32(q[0], q[1]), vaddq_s32(q[2], q[3])));
      const int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
      const int16x8_t high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
      vst1q_s8(out.quants + 32 * b + 16 * h, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
      out.sums16[2 * b + h] = scale * static_cast<float>(sums[h]);
    }
    out.scales[b] = scale;
    out.sums32[b] = scale * static_cast<float>(sums[0] + sums[1]);
  }
}

void quantize_int8_vector(const float* x,
                          std::int64_t n,
                          std::int64_t columns,
                          std::int8_t* quants,
                          float* scales,
                          float* constants) {
  constexpr int kColumns = PackedInt8::kColumns;
  for (std::int64_t u = 0; u < columns / kColumns; ++u) {
    const std::int64_t left = n - kColumns * u;
    float padded[kColumns] = {};
    const float* values = x + kColumns * u;
    if (left < kColumns) {
      if (left > 0) __builtin_memcpy(padded, values, static_cast<std::size_t>(4 * left));
      values = padded;
    }
    float32x4_t top = vdupq_n_f32(0.0F);
    for (int i = 0; i < kColumns; i += 4) top = vmaxnmq_f32(top, vabsq_f32(vld1q_f32(values + i)));
    const float largest = vmaxnmvq_f32(top);
    const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
    int32x4_t sums = vdupq_n_s32(0);
    for (int i = 0; i < kColumns; i += 8) {
      const int32x4_t low = levels_within_127(vld1q_f32(values + i), inverse);
      const int32x4_t high = levels_within_127(vld1q_f32(values + i + 4), inverse);
      sums = vaddq_s32(sums, vaddq_s32(low, high));
      vst1_s8(quants + kColumns * u + i, vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
    }
    scales[u] = largest / 127.0F;
    constants[u] = -128.0F * scales[u] * static_cast<float>(vaddvq_s32(sums));
  }
}

template <typename D>
constexpr Kernels neon_table(const char* name) {
  using Panel = Panel128<D>;
  return {
      .name = name,
      .matmul_f32 = float_matmul<Vector128, LoadF32<Vector128>>,
      .matmul_f16 = float_matmul<Vector128, LoadF16<Vector128>>,
      .matmul_bf16 = float_matmul<Vector128, LoadBf16<Vector128>>,
      .matmul_q8_0 = quantized_matmul<Panel, BlockQ8_0, dot_blocks<D, BlockQ8_0>>,
      .matmul_q4_0 = quantized_matmul<Panel, BlockQ4_0, dot_blocks<D, BlockQ4_0>>,
      .matmul_q4_1 = quantized_matmul<Panel, BlockQ4_1, dot_blocks<D, BlockQ4_1>>,
      .matmul_q5_0 = quantized_matmul<Panel, BlockQ5_0, dot_blocks<D, BlockQ5_0>>,
      .matmul_q5_1 = quantized_matmul<Panel, BlockQ5_1, dot_blocks<D, BlockQ5_1>>,
      .matmul_q4_k = quantized_matmul<Panel, BlockQ4_K, dot_affine<D, BlockQ4_K>>,
      .matmul_q5_k = quantized_matmul<Panel, BlockQ5_K, dot_affine<D, BlockQ5_K>>,
      .matmul_q6_k = quantized_matmul<Panel, BlockQ6_K, dot_q6_k<D>>,
      .packed_matmul = packed_matmul_of<Packed128<D>>,
      .matmul_int8 = int8_matmul<Packed128<D>>,
      .quantize_int8 = quantize_int8_vector,
      .attend_bf16 = nullptr,
      .quantize = quantize_vector,
      .softmax = vector_softmax<Vector128>,
      .silu_multiply = vector_silu_multiply<Vector128>,
      .activate = vector_activate<Vector128>,
      .rms_norm = vector_rms_norm<Vector128>,
      .layer_norm = vector_layer_norm<Vector128>,
      .add_scaled = vector_add_scaled<Vector128>,
      .to_half = vector_to_half<Vector128>,
  };
}

}  // namespace
}  // namespace pocketvlm
