#include <immintrin.h>

#include "mobile/kernels_simd.h"
#include "mobile/packed_formats.h"

// Products of PackedInt8 matrices with inputs of eight bits. With one scale for 128 columns on
// both sides, nine of ten instructions are multiplications. Compiled with the AVX-512 F, BW, DQ,
// VL and VNNI instructions: nothing with external linkage but the functions of kernels_simd.h.
namespace pocketvlm {
namespace {

constexpr int kColumns = PackedInt8::kColumns;

// kPanels panels, `units` units each, times kTokens input rows.
template <int kPanels, int kTokens>
void int8_tile(const PackedInt8* panel,
               std::int64_t units,
               const Int8Input& input,
               std::int64_t token,
               std::int64_t rows,
               float* y,
               std::int64_t y_stride) {
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * units;
  const float* constants = input.constants + token * units;
  __m512 totals[kPanels][kTokens];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) totals[p][t] = _mm512_setzero_ps();
  }
  for (std::int64_t u = 0; u < units; ++u) {
    __m512i dots[kPanels][kTokens];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) dots[p][t] = _mm512_setzero_si512();
    }
#pragma GCC unroll 4
    for (int k = 0; k < kColumns / 4; ++k) {
      __m512i levels[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) levels[p] = _mm512_load_si512(panel[p * units + u].q[k]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        std::int32_t four;
        __builtin_memcpy(&four, x + t * input.columns + kColumns * u + 4 * k, 4);
        const __m512i inputs = _mm512_set1_epi32(four);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p)
          dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], levels[p], inputs);
      }
    }
    __m512 factors[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) factors[p] = _mm512_load_ps(panel[p * units + u].scale);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m512 scale = _mm512_set1_ps(scales[t * units + u]);
      const __m512 constant = _mm512_set1_ps(constants[t * units + u]);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[p][t]), scale, constant);
        totals[p][t] = _mm512_fmadd_ps(sum, factors[p], totals[p][t]);
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    const std::int64_t left = rows - kPanelRows * p;
    const auto mask = static_cast<__mmask16>(left >= kPanelRows ? 0xFFFFU : (1U << left) - 1U);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      _mm512_mask_storeu_ps(y + t * y_stride + kPanelRows * p, mask, totals[p][t]);
  }
}

template <int kPanels>
void int8_tokens(const PackedInt8* panel,
                 std::int64_t units,
                 const Int8Input& input,
                 std::int64_t rows,
                 float* y,
                 std::int64_t y_stride) {
  constexpr int kTokens = 6;
  std::int64_t t = 0;
  for (; t + kTokens <= input.tokens; t += kTokens)
    int8_tile<kPanels, kTokens>(panel, units, input, t, rows, y + t * y_stride, y_stride);
  for (; t < input.tokens; ++t)
    int8_tile<kPanels, 1>(panel, units, input, t, rows, y + t * y_stride, y_stride);
}

}  // namespace

void avx512_matmul_int8(const PackedRows& weights,
                        const Int8Input& input,
                        float* y,
                        std::int64_t y_stride) {
  const std::int64_t units = input.columns / kColumns;
  const auto* panel = static_cast<const PackedInt8*>(weights.data);
  for (std::int64_t first = 0; first < weights.rows; first += 2 * kPanelRows, panel += 2 * units) {
    const std::int64_t rows = weights.rows - first;
    if (rows > kPanelRows)
      int8_tokens<2>(panel, units, input, rows, y + first, y_stride);
    else
      int8_tokens<1>(panel, units, input, rows, y + first, y_stride);
  }
}

void avx512_quantize_int8(const float* x,
                          std::int64_t n,
                          std::int64_t columns,
                          std::int8_t* quants,
                          float* scales,
                          float* constants) {
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
      const __m512i levels = _mm512_cvtps_epi32(_mm512_mul_ps(values[v], inverse));
      sum = _mm512_add_epi32(sum, levels);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(quants + kColumns * u + 16 * v),
                       _mm512_cvtepi32_epi8(levels));
    }
    scales[u] = scale;
    constants[u] = -128.0F * scale * static_cast<float>(_mm512_reduce_add_epi32(sum));
  }
}

}  // namespace pocketvlm
