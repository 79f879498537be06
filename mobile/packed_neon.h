#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "mobile/packed_formats.h"

/// The 16 rows of a panel as four vectors of four rows, for packed_kernels.h and int8_kernels.h. D
/// as in neon_kernels.h. Included by files with different instruction sets, hence internal linkage.
namespace pocketvlm {
namespace {

// 16 where the bit of a lane is set in two bytes, lane 0 the lowest.
int8x16_t sixteen_where_set(const std::uint8_t* bits) {
  const uint8x16_t spread = vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1]));
  const uint8x8_t lanes = vcreate_u8(0x8040201008040201ULL);
  const uint8x16_t set = vtstq_u8(spread, vcombine_u8(lanes, lanes));
  return vreinterpretq_s8_u8(vandq_u8(set, vdupq_n_u8(16)));
}

template <typename D>
struct Packed128 {
  struct Bytes {
    int8x16_t v[4];
  };
  struct Ints {
    int32x4_t v[4];
  };
  struct Floats {
    float32x4_t v[4];
  };
  static constexpr int kStreams = 1;
  static constexpr int kPanels = 1;
  static constexpr int kTokens = 4;
  static constexpr float kQ8Bias = 0.0F;  // levels are multiplied as signed bytes

  // `function` of the index of each vector.
  template <typename Result, typename Function>
  static inline __attribute__((always_inline)) Result each(const Function& function) {
    return {{function(0), function(1), function(2), function(3)}};
  }

  static Bytes load(const void* p) {
    return each<Bytes>(
        [p](int i) { return vld1q_s8(static_cast<const std::int8_t*>(p) + 16 * i); });
  }
  static void store(void* p, Bytes b) {
    for (int i = 0; i < 4; ++i) vst1q_s8(static_cast<std::int8_t*>(p) + 16 * i, b.v[i]);
  }
  static void prefetch(const char* p) { __builtin_prefetch(p); }
  static Bytes low_nibbles(Bytes b) {
    return each<Bytes>([&b](int i) { return vandq_s8(b.v[i], vdupq_n_s8(15)); });
  }
  static Bytes high_nibbles(Bytes b) {
    return each<Bytes>(
        [&b](int i) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(b.v[i]), 4)); });
  }
  static Bytes q8_levels(Bytes b) {
    return each<Bytes>([&b](int i) { return veorq_s8(b.v[i], vdupq_n_s8(-128)); });
  }
  static Bytes fifth_bits(Bytes b, std::uint64_t bits) {
    return each<Bytes>([&b, bits](int i) {
      const std::uint8_t two[2] = {static_cast<std::uint8_t>(bits >> (16 * i)),
                                   static_cast<std::uint8_t>(bits >> (16 * i + 8))};
      return vorrq_s8(b.v[i], sixteen_where_set(two));
    });
  }
  template <int k>
  static Bytes q6_levels(Bytes packed, Bytes bits) {
    const Bytes low = k < 2 ? low_nibbles(packed) : high_nibbles(packed);
    return each<Bytes>([&low, &bits](int i) {
      const uint8x16_t b = vreinterpretq_u8_s8(bits.v[i]);
      const uint8x16_t moved = k == 0   ? vshlq_n_u8(b, 4)
                               : k == 1 ? vshlq_n_u8(b, 2)
                               : k == 2 ? b
                                        : vshrq_n_u8(b, 2);
      return vorrq_s8(low.v[i], vreinterpretq_s8_u8(vandq_u8(moved, vdupq_n_u8(0x30))));
    });
  }

  static Ints zero_ints() {
    return each<Ints>([](int) { return vdupq_n_s32(0); });
  }
  static Ints add_ints(Ints a, Ints b) {
    return each<Ints>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
  }
  static Ints dot(Ints sum, Bytes levels, const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    const int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(four));
    return each<Ints>([&](int i) { return D::dot(sum.v[i], levels.v[i], inputs); });
  }
  static Floats to_floats(Ints a) {
    return each<Floats>([&a](int i) { return vcvtq_f32_s32(a.v[i]); });
  }

  static Floats zero() {
    return each<Floats>([](int) { return vdupq_n_f32(0.0F); });
  }
  static Floats every(const float* p) {
    const float32x4_t value = vld1q_dup_f32(p);
    return {{value, value, value, value}};
  }
  static Floats load_floats(const float* p) {
    return each<Floats>([p](int i) { return vld1q_f32(p + 4 * i); });
  }
  static void store_floats(float* p, Floats a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
  }
  static void store_rows(float* y, Floats values, std::int64_t rows) {
    if (rows >= kPanelRows) return store_floats(y, values);
    float all[kPanelRows];
    store_floats(all, values);
    __builtin_memcpy(y, all, static_cast<std::size_t>(4 * rows));
  }
  static Floats sub(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
  }
  static Floats mul(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
  }
  static Floats fma(Floats a, Floats b, Floats c) {
    return each<Floats>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  static Floats fnma(Floats a, Floats b, Floats c) {
    return each<Floats>([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  static Floats halves(const std::uint16_t* p) {
    return each<Floats>(
        [p](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static Floats signed_bytes(const std::int8_t* p) {
    return each<Floats>([p](int i) {
      std::int32_t four;
      __builtin_memcpy(&four, p + 4 * i, 4);
      const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
      return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    });
  }
  static Floats unsigned_bytes(uint8x16_t bytes) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes));
    const uint16x8_t high = vmovl_high_u8(bytes);
    return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
             vcvtq_f32_u32(vmovl_high_u16(low)),
             vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
             vcvtq_f32_u32(vmovl_high_u16(high))}};
  }

  // The 6-bit scales and mins of sub-block j.
  struct Pair {
    Floats scales;
    Floats mins;
  };
  static Pair pair(const std::uint8_t (&b)[12][16], int j) {
    const auto row = [&b](int i) { return vld1q_u8(b[i]); };
    const uint8x16_t six = vdupq_n_u8(63);
    if (j < 4)
      return {unsigned_bytes(vandq_u8(row(j), six)), unsigned_bytes(vandq_u8(row(j + 4), six))};
    const uint8x16_t upper = vdupq_n_u8(48);
    const uint8x16_t both = row(j + 4);
    const uint8x16_t scale_top = vandq_u8(vshrq_n_u8(row(j - 4), 2), upper);
    const uint8x16_t min_top = vandq_u8(vshrq_n_u8(row(j), 2), upper);
    return {unsigned_bytes(vorrq_u8(vandq_u8(both, vdupq_n_u8(15)), scale_top)),
            unsigned_bytes(vorrq_u8(vshrq_n_u8(both, 4), min_top))};
  }
};

}  // namespace
}  // namespace pocketvlm
