#include "mobile/attention_bf16.h"

// Compiled with AVX512_BF16 as well: nothing with external linkage but the function of
// kernels_simd.h.
namespace pocketvlm {
namespace {

// y [kTokens, 16 kPanels] = rows [kTokens, pairs] times panels.
template <int kPanels, int kTokens>
void bf16_tile(
    const Pair* panels, const Pair* rows, std::int64_t pairs, float* y, std::int64_t y_stride) {
  __m512 totals[kPanels][kTokens];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) totals[p][t] = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < pairs; ++i) {
    __m512bh weights[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
      weights[p] =
          reinterpret_cast<__m512bh>(_mm512_loadu_si512(panels + (p * pairs + i) * kLanes));
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      const auto inputs =
          reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(rows[t * pairs + i])));
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p)
        totals[p][t] = _mm512_dpbf16_ps(totals[p][t], weights[p], inputs);
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) _mm512_storeu_ps(y + t * y_stride + p * kLanes, totals[p][t]);
  }
}

// y [kTokens, 16 panels]
template <int kTokens>
void bf16_product(
    const Pair* panels, std::int64_t count, const Pair* rows, std::int64_t pairs, float* y) {
  const std::int64_t stride = count * kLanes;
  std::int64_t p = 0;
  for (; p + 2 <= count; p += 2)
    bf16_tile<2, kTokens>(panels + p * pairs * kLanes, rows, pairs, y + p * kLanes, stride);
  if (p < count)
    bf16_tile<1, kTokens>(panels + p * pairs * kLanes, rows, pairs, y + p * kLanes, stride);
}

struct VectorProduct {
  static constexpr int kQueries = 12;

  static void multiply(const Pair* panels,
                       std::int64_t count,
                       const Pair* rows,
                       std::int64_t pairs,
                       int tokens,
                       float* y) {
    if (tokens == kQueries) return bf16_product<kQueries>(panels, count, rows, pairs, y);
    for (int t = 0; t < tokens; ++t)
      bf16_product<1>(panels, count, rows + t * pairs, pairs, y + t * count * kLanes);
  }
};

}  // namespace

void avx512bf16_attend(const AttentionHead& head) { attend_bf16<VectorProduct>(head); }

}  // namespace pocketvlm
