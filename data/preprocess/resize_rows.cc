#include "data/preprocess/resize_rows.h"

#include <algorithm>
#include <cstring>

// Compiled beside the plain loops and chosen at run time.
#if defined(__x86_64__) && defined(__GNUC__)
#define PV_RESIZE_AVX2 1
#include <immintrin.h>
#endif

namespace pocketvlm {
namespace {

inline std::uint8_t to_byte(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

void horizontal_row(const std::uint8_t* rgbx, const ResizeWeights& weights, std::uint8_t* rgb) {
  const int width = static_cast<int>(weights.span.size());
  for (int x = 0; x < width; ++x, rgb += 3) {
    const auto [first, count] = weights.span[x];
    const std::uint8_t* from = rgbx + 4 * static_cast<std::size_t>(first);
    const std::int32_t* fixed = weights.of(x);
    auto [red, green, blue, unused] = weights.start[x];
    for (int i = 0; i < count; ++i, from += 4) {
      red += from[0] * fixed[i];
      green += from[1] * fixed[i];
      blue += from[2] * fixed[i];
    }
    rgb[0] = to_byte(red);
    rgb[1] = to_byte(green);
    rgb[2] = to_byte(blue);
  }
}

void vertical_row(const std::uint8_t* const* rows,
                  const std::int32_t* fixed,
                  int count,
                  int bytes,
                  std::uint8_t* out) {
  constexpr int kBlock = 256;  // sums that stay in the nearest cache
  std::int32_t sums[kBlock];
  for (int x = 0; x < bytes; x += kBlock) {
    const int size = std::min(kBlock, bytes - x);
    std::fill_n(sums, size, kWeightHalf);
    for (int i = 0; i < count; ++i) {
      const std::uint8_t* from = rows[i] + x;
      const std::int32_t weight = fixed[i];
      for (int j = 0; j < size; ++j) sums[j] += from[j] * weight;
    }
    for (int j = 0; j < size; ++j) out[x + j] = to_byte(sums[j]);
  }
}

#ifdef PV_RESIZE_AVX2

#define PV_AVX2 [[gnu::target("avx2")]]

PV_AVX2 inline __m256i eight_bytes(const std::uint8_t* from) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

/// One multiplication serves both pixels of a pair: lanes R G B x R G B x.
PV_AVX2 void horizontal_row_avx2(const std::uint8_t* rgbx,
                                 const ResizeWeights& weights,
                                 std::uint8_t* rgb) {
  const __m256i first_then_second = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  const int width = static_cast<int>(weights.span.size());
  for (int x = 0; x < width; ++x, rgb += 3) {
    const auto [first, count] = weights.span[x];
    const std::uint8_t* from = rgbx + 4 * static_cast<std::size_t>(first);
    const std::int32_t* fixed = weights.of(x);
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < count; i += 2) {
      const __m128i two = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(fixed + i));
      const __m256i weight =
          _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(two), first_then_second);
      sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(eight_bytes(from + 4 * i), weight));
    }
    __m128i pixel = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    const auto* start = reinterpret_cast<const __m128i*>(weights.start[x].data());
    pixel = _mm_srai_epi32(_mm_add_epi32(pixel, _mm_loadu_si128(start)), kWeightBits);
    pixel = _mm_packs_epi32(pixel, pixel);
    const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(pixel, pixel));
    // The fourth byte is written over by the next pixel; the last pixel must not write it.
    std::memcpy(rgb, &bytes, x + 1 < width ? 4 : 3);
  }
}

PV_AVX2 void vertical_row_avx2(const std::uint8_t* const* rows,
                               const std::int32_t* fixed,
                               int count,
                               int bytes,
                               std::uint8_t* out) {
  int x = 0;
  for (; x + 32 <= bytes; x += 32) {
    __m256i sum_0 = _mm256_set1_epi32(kWeightHalf);
    __m256i sum_1 = sum_0, sum_2 = sum_0, sum_3 = sum_0;
    for (int i = 0; i < count; ++i) {
      const std::uint8_t* from = rows[i] + x;
      const __m256i weight = _mm256_set1_epi32(fixed[i]);
      sum_0 = _mm256_add_epi32(sum_0, _mm256_mullo_epi32(eight_bytes(from), weight));
      sum_1 = _mm256_add_epi32(sum_1, _mm256_mullo_epi32(eight_bytes(from + 8), weight));
      sum_2 = _mm256_add_epi32(sum_2, _mm256_mullo_epi32(eight_bytes(from + 16), weight));
      sum_3 = _mm256_add_epi32(sum_3, _mm256_mullo_epi32(eight_bytes(from + 24), weight));
    }
    const __m256i low = _mm256_packs_epi32(_mm256_srai_epi32(sum_0, kWeightBits),
                                           _mm256_srai_epi32(sum_1, kWeightBits));
    const __m256i high = _mm256_packs_epi32(_mm256_srai_epi32(sum_2, kWeightBits),
                                            _mm256_srai_epi32(sum_3, kWeightBits));
    // Packing works in each half alone; the permutation restores the order of groups of four bytes.
    const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high),
                                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), packed);
  }
  for (; x < bytes; ++x) {
    std::int32_t sum = kWeightHalf;
    for (int i = 0; i < count; ++i) sum += rows[i][x] * fixed[i];
    out[x] = to_byte(sum);
  }
}

#endif  // PV_RESIZE_AVX2

ResizeRows choose() {
#ifdef PV_RESIZE_AVX2
  if (__builtin_cpu_supports("avx2")) return {horizontal_row_avx2, vertical_row_avx2};
#endif
  return plain_resize_rows();
}

}  // namespace

ResizeRows plain_resize_rows() { return {horizontal_row, vertical_row}; }

const ResizeRows& resize_rows() {
  static const ResizeRows chosen = choose();
  return chosen;
}

}  // namespace pocketvlm
