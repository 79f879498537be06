#pragma once

#include <immintrin.h>

#include <cstdint>

/// Sixteen floats, as vector_kernels.h computes with. Included by files compiled with AVX-512 F,
/// BW, DQ and VL, hence internal linkage.
namespace pocketvlm {
namespace {

/// The first `count` of sixteen; none of fewer than one, all of more.
inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFFU : count <= 0 ? 0U : (1U << count) - 1U);
}

struct Vector512 {
  using Type = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kRows = 4;
  static constexpr int kTokens = 6;

  static __mmask16 mask(std::int64_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
  static Type zero() { return _mm512_setzero_ps(); }
  static Type set1(float value) { return _mm512_set1_ps(value); }
  static Type load(const float* p) { return _mm512_loadu_ps(p); }
  static Type load_part(const float* p, std::int64_t n) {
    return _mm512_maskz_loadu_ps(mask(n), p);
  }
  static void store(float* p, Type v) { _mm512_storeu_ps(p, v); }
  static void store_part(float* p, Type v, std::int64_t n) { _mm512_mask_storeu_ps(p, mask(n), v); }
  static Type load_f16(const std::uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_halves(std::uint16_t* p, Type v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static Type load_bf16(const std::uint8_t* p) {
    const __m512i wide =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static Type add(Type a, Type b) { return _mm512_add_ps(a, b); }
  static Type sub(Type a, Type b) { return _mm512_sub_ps(a, b); }
  static Type mul(Type a, Type b) { return _mm512_mul_ps(a, b); }
  static Type div(Type a, Type b) { return _mm512_div_ps(a, b); }
  static Type fma(Type a, Type b, Type c) { return _mm512_fmadd_ps(a, b, c); }
  static Type max(Type a, Type b) { return _mm512_max_ps(a, b); }
  static Type min(Type a, Type b) { return _mm512_min_ps(a, b); }
  static Type abs(Type a) { return _mm512_abs_ps(a); }
  static Type round(Type a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Type pow2(Type n) { return _mm512_scalef_ps(set1(1.0F), n); }
  static float sum(Type a) { return _mm512_reduce_add_ps(a); }
  static float largest(Type a) { return _mm512_reduce_max_ps(a); }
  static Type select_negative(Type x, Type if_negative, Type otherwise) {
    return _mm512_mask_blend_ps(
        _mm512_movepi32_mask(_mm512_castps_si512(x)), otherwise, if_negative);
  }
};

}  // namespace
}  // namespace pocketvlm
