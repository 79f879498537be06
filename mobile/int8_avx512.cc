#include "mobile/int8_kernels.h"
#include "mobile/packed512.h"

// Compiled with the AVX-512 F, BW, DQ, VL and VNNI instructions: nothing with external linkage but
// the functions of kernels_simd.h.
namespace pocketvlm {

void avx512_matmul_int8(const PackedRows& weights,
                        const Int8Input& input,
                        float* y,
                        std::int64_t y_stride) {
  int8_matmul<Packed512>(weights, input, y, y_stride);
}

void avx512_quantize_int8(const float* x,
                          std::int64_t n,
                          std::int64_t columns,
                          std::int8_t* quants,
                          float* scales,
                          float* constants) {
  constexpr int kColumns = PackedInt8::kColumns;
  for (std::int64_t u = 0; u < columns / kColumns; ++u) {
    __m512 values[8];
    __m512 top = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      const std::int64_t left = n - kColumns * u - 16 * v;
      const auto mask = static_cast<__mmask16>(left >= 16  ? 0xFFFFU
                                               : left <= 0 ? 0U
                                                           : (1U << left) - 1U);
      values[v] = _mm512_maskz_loadu_ps(mask, x + kColumns * u + 16 * v);
      top = _mm512_max_ps(top, _mm512_abs_ps(values[v]));
    }
    const float largest = _mm512_reduce_max_ps(top);
    const float scale = largest / 127.0F;
    const __m512 inverse = _mm512_set1_ps(largest > 0.0F ? 127.0F / largest : 0.0F);
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      const __m128i levels = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(values[v], inverse)));
      // Of the bytes: where the inverse is infinite, wider numbers would overflow.
      sum = _mm512_add_epi32(sum, _mm512_cvtepi8_epi32(levels));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(quants + kColumns * u + 16 * v), levels);
    }
    scales[u] = scale;
    constants[u] = -128.0F * scale * static_cast<float>(_mm512_reduce_add_epi32(sum));
  }
}

}  // namespace pocketvlm
