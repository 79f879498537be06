#pragma once

#include <immintrin.h>

#include <cstdint>

#include "mobile/packed_formats.h"
#include "mobile/vector512.h"

/// The 16 rows of a panel as one vector, for packed_kernels.h and int8_kernels.h. Included by files
/// compiled with the AVX-512 F, BW, DQ, VL and VNNI instructions, hence internal linkage.
namespace pocketvlm {
namespace {

struct Packed512 {
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr int kStreams = 4;
  static constexpr int kPanels = 2;
  static constexpr int kTokens = 6;
  static constexpr float kQ8Bias = -128.0F;  // the levels are multiplied as they are, unsigned

  static Bytes load(const void* p) { return _mm512_load_si512(p); }
  static void store(void* p, Bytes v) { _mm512_store_si512(p, v); }
  static void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }
  static Bytes low_nibbles(Bytes v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static Bytes high_nibbles(Bytes v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
  static Bytes q8_levels(Bytes v) { return v; }
  static Bytes fifth_bits(Bytes v, std::uint64_t bits) {
    return _mm512_mask_add_epi8(v, bits, v, _mm512_set1_epi8(16));
  }
  template <int k>
  static Bytes q6_levels(Bytes packed, Bytes bits) {
    const Bytes low = k < 2 ? low_nibbles(packed) : high_nibbles(packed);
    const Bytes moved = k == 0   ? _mm512_slli_epi16(bits, 4)
                        : k == 1 ? _mm512_slli_epi16(bits, 2)
                        : k == 2 ? bits
                                 : _mm512_srli_epi16(bits, 2);
    // low | (moved & 0x30)
    return _mm512_ternarylogic_epi64(low, moved, _mm512_set1_epi8(0x30), 0xF8);
  }

  static Ints zero_ints() { return _mm512_setzero_si512(); }
  static Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints dot(Ints sum, Bytes levels, const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sum, levels, _mm512_set1_epi32(four));
  }
  static Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats every(const float* p) { return _mm512_set1_ps(*p); }
  static Floats load_floats(const float* p) { return _mm512_load_ps(p); }
  static void store_floats(float* p, Floats v) { _mm512_store_ps(p, v); }
  static void store_rows(float* y, Floats values, std::int64_t rows) {
    if (rows >= kPanelRows)
      _mm512_storeu_ps(y, values);
    else
      _mm512_mask_storeu_ps(y, first_lanes(rows), values);
  }
  static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats fnma(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
  static Floats halves(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Floats signed_bytes(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p))));
  }

  // The 6-bit scales and mins of sub-block j.
  struct Pair {
    Floats scales;
    Floats mins;
  };
  static Pair pair(const std::uint8_t (&b)[12][16], int j) {
    const auto row = [&b](int i) { return _mm_load_si128(reinterpret_cast<const __m128i*>(b[i])); };
    const auto floats = [](__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v)); };
    const __m128i six = _mm_set1_epi8(63);
    if (j < 4) return {floats(_mm_and_si128(row(j), six)), floats(_mm_and_si128(row(j + 4), six))};
    const __m128i four = _mm_set1_epi8(15);
    const __m128i upper = _mm_set1_epi8(48);
    const __m128i both = row(j + 4);
    // Shifts within 16 bits bring strange bits in from a neighbour; the masks drop them.
    const __m128i scale_top = _mm_and_si128(_mm_srli_epi16(row(j - 4), 2), upper);
    const __m128i min_top = _mm_and_si128(_mm_srli_epi16(row(j), 2), upper);
    return {floats(_mm_or_si128(_mm_and_si128(both, four), scale_top)),
            floats(_mm_or_si128(_mm_and_si128(_mm_srli_epi16(both, 4), four), min_top))};
  }
};

}  // namespace
}  // namespace pocketvlm
