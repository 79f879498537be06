#pragma once

#include <immintrin.h>

#include "mobile/kernels_simd.h"
#include "mobile/vector512.h"
#include "mobile/vector_kernels.h"

/// Attention over one head with bfloat16 products: keys and values are laid out in panels once,
/// then a few queries at a time pass through scores, softmax and values without leaving the caches.
/// Written once over a product P:
///   kQueries   queries at a time
///   multiply(panels, count, rows, pairs, tokens, y)
///              y [tokens, 16 count] = rows [tokens, pairs] times `count` panels [pairs][16]; all
///              buffers have room for kQueries rows
/// Included by files compiled with AVX-512 and AVX512_BF16, hence internal linkage.
namespace pocketvlm {
namespace {

constexpr int kLanes = 16;

using Pair = std::uint32_t;  // two neighbouring bfloat16 of a sum

std::int64_t panels_of(std::int64_t rows) { return (rows + kLanes - 1) / kLanes; }
std::int64_t pairs_of(std::int64_t n) { return (n + 1) / 2; }

// Rows as bfloat16 pairs, an odd last one with zero: [rows, pairs].
void pair_rows(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, Pair* out) {
  const std::int64_t pairs = pairs_of(n);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < n; i += kLanes) {
      const __m512 values = _mm512_maskz_loadu_ps(first_lanes(n - i), x + r * stride + i);
      const __m256bh bits = _mm512_cvtneps_pbh(values);
      __m256i words;
      __builtin_memcpy(&words, &bits, 32);
      const std::int64_t left = pairs - i / 2;
      _mm256_mask_storeu_epi32(out + r * pairs + i / 2,
                               static_cast<__mmask8>(left >= 8 ? 0xFFU : (1U << left) - 1U),
                               words);
    }
  }
}

// Keys: panels of 16 rows, [pairs][16]; `rows` of them beyond the last are zero.
void panel_keys(const Pair* rows, std::int64_t count, std::int64_t pairs, Pair* panels) {
  for (std::int64_t p = 0; p < panels_of(count); ++p) {
    Pair* panel = panels + p * pairs * kLanes;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const bool there = p * kLanes + r < count;
      const Pair* row = rows + (p * kLanes + r) * pairs;
      for (std::int64_t i = 0; i < pairs; ++i) panel[i * kLanes + r] = there ? row[i] : 0;
    }
  }
}

// Values: panels of 16 channels, pairs along the keys, [keys / 2][16].
void panel_values(
    const float* v, std::int64_t stride, std::int64_t keys, std::int64_t head_dim, Pair* panels) {
  const std::int64_t pairs = pairs_of(keys);
  for (std::int64_t p = 0; p < panels_of(head_dim); ++p) {
    const __mmask16 there = first_lanes(head_dim - p * kLanes);
    for (std::int64_t j = 0; j < pairs; ++j) {
      const float* row = v + 2 * j * stride + p * kLanes;
      const __m512 first = _mm512_maskz_loadu_ps(there, row);
      const __m512 second =
          2 * j + 1 < keys ? _mm512_maskz_loadu_ps(there, row + stride) : _mm512_setzero_ps();
      const __m256bh low = _mm512_cvtneps_pbh(first);
      const __m256bh high = _mm512_cvtneps_pbh(second);
      __m256i low_words;
      __m256i high_words;
      __builtin_memcpy(&low_words, &low, 32);
      __builtin_memcpy(&high_words, &high, 32);
      const __m512i joined =
          _mm512_or_si512(_mm512_cvtepu16_epi32(low_words),
                          _mm512_slli_epi32(_mm512_cvtepu16_epi32(high_words), 16));
      _mm512_storeu_si512(panels + (p * pairs + j) * kLanes, joined);
    }
  }
}

// e^(scale x - largest) of a row of scores as bfloat16 pairs; returns their sum. Scores beyond n
// become zero.
float exponentials(const float* scores, std::int64_t n, float scale, Pair* out) {
  using V = Vector512;
  const __m512 factor = V::set1(scale);
  __m512 top = V::set1(-3.0e38F);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    top = _mm512_mask_max_ps(top, first_lanes(n - i), top, V::mul(factor, V::load(scores + i)));
  }
  const __m512 shift = V::set1(V::largest(top));
  __m512 total = V::zero();
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const __m512 value = _mm512_maskz_mov_ps(
        first_lanes(n - i), exponential<V>(V::sub(V::mul(factor, V::load(scores + i)), shift)));
    total = V::add(total, value);
    const __m256bh bits = _mm512_cvtneps_pbh(value);
    __builtin_memcpy(out + i / 2, &bits, 32);
  }
  return V::sum(total);
}

template <typename P>
void attend_queries(const AttentionHead& head,
                    std::int64_t first,
                    const Pair* queries,
                    const Pair* keys,
                    const Pair* values,
                    float* scores,
                    Pair* probabilities,
                    float* mixed) {
  const std::int64_t pairs = pairs_of(head.head_dim);
  const std::int64_t key_panels = panels_of(head.keys);
  const std::int64_t key_pairs = pairs_of(head.keys);
  const std::int64_t channel_panels = panels_of(head.head_dim);
  const std::int64_t left = head.queries - first;
  const int tokens = left < P::kQueries ? static_cast<int>(left) : P::kQueries;
  P::multiply(keys, key_panels, queries + first * pairs, pairs, tokens, scores);
  float sums[P::kQueries];
  for (int t = 0; t < tokens; ++t) {
    sums[t] = exponentials(
        scores + t * key_panels * kLanes, head.keys, head.scale, probabilities + t * key_pairs);
  }
  P::multiply(values, channel_panels, probabilities, key_pairs, tokens, mixed);
  for (int t = 0; t < tokens; ++t) {
    const __m512 inverse = _mm512_set1_ps(1.0F / sums[t]);
    float* out = head.out + (first + t) * head.stride;
    for (std::int64_t c = 0; c < head.head_dim; c += kLanes) {
      const __m512 value = _mm512_loadu_ps(mixed + t * channel_panels * kLanes + c);
      _mm512_mask_storeu_ps(out + c, first_lanes(head.head_dim - c), _mm512_mul_ps(value, inverse));
    }
  }
}

template <typename P>
void attend_bf16(const AttentionHead& head) {
  const std::int64_t pairs = pairs_of(head.head_dim);
  const std::int64_t key_panels = panels_of(head.keys);
  const std::int64_t channel_panels = panels_of(head.head_dim);
  const std::int64_t key_pairs = pairs_of(head.keys);
  // Exponentials are stored eight pairs at a time: a little room behind the last row.
  const std::int64_t sizes[] = {(head.queries + P::kQueries) * pairs,
                                head.keys * pairs,
                                key_panels * pairs * kLanes,
                                channel_panels * key_pairs * kLanes,
                                P::kQueries * key_panels * kLanes,
                                P::kQueries * key_pairs + kLanes,
                                P::kQueries * channel_panels * kLanes};
  std::int64_t total = 0;
  for (const std::int64_t size : sizes) total += (size + kLanes - 1) / kLanes * kLanes;
  auto* scratch = static_cast<Pair*>(panel_scratch(static_cast<std::size_t>(total) * sizeof(Pair)));
  const auto take = [&scratch](std::int64_t size) {
    Pair* at = scratch;
    scratch += (size + kLanes - 1) / kLanes * kLanes;
    return at;
  };
  Pair* queries = take(sizes[0]);
  Pair* key_rows = take(sizes[1]);
  Pair* keys = take(sizes[2]);
  Pair* values = take(sizes[3]);
  auto* scores = reinterpret_cast<float*>(take(sizes[4]));
  Pair* probabilities = take(sizes[5]);
  auto* mixed = reinterpret_cast<float*>(take(sizes[6]));
  pair_rows(head.q, head.stride, head.queries, head.head_dim, queries);
  pair_rows(head.k, head.stride, head.keys, head.head_dim, key_rows);
  panel_keys(key_rows, head.keys, pairs, keys);
  panel_values(head.v, head.stride, head.keys, head.head_dim, values);
  for (std::int64_t first = 0; first < head.queries; first += P::kQueries)
    attend_queries<P>(head, first, queries, keys, values, scores, probabilities, mixed);
}

}  // namespace
}  // namespace pocketvlm
