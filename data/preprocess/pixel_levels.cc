#include "data/preprocess/pixel_levels.h"

#include <algorithm>

// Compiled beside the plain loop and chosen at run time.
#if defined(__x86_64__) && defined(__GNUC__)
#define PV_PIXELS_X86 1
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of g++ 12, about its own AVX-512 header
#include <immintrin.h>
#endif

namespace pocketvlm {

struct PixelLoops {
  static void plain(const PixelLevels& levels, const PixelBlock& block, float* out) {
    const std::ptrdiff_t plane = std::ptrdiff_t{block.width} * block.height;
    const auto& [red, green, blue] = levels.channels_;
    for (int y = 0; y < block.height; ++y) {
      const std::uint8_t* rgb = block.rgb + y * block.stride;
      for (int x = 0; x < block.width; ++x, rgb += 3, ++out) {
        out[0] = red.levels[rgb[0]];
        out[plane] = green.levels[rgb[1]];
        out[2 * plane] = blue.levels[rgb[2]];
      }
    }
  }

#ifdef PV_PIXELS_X86

#define PV_AVX2 [[gnu::target("avx2,fma")]]
#define PV_AVX512 [[gnu::target("avx512f,avx512bw,avx512vl,avx512vbmi")]]

  /// a / b, rounded as by a division, in a third of its time: a fused multiply-add finds what the product lacks exactly.
  PV_AVX2 static __m256 divide(__m256 a, __m256 b, __m256 inverse) {
    const __m256 product = _mm256_mul_ps(a, inverse);
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(product, b, a), inverse, product);
  }

  PV_AVX512 static __m512 divide(__m512 a, __m512 b, __m512 inverse) {
    const __m512 product = _mm512_mul_ps(a, inverse);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(product, b, a), inverse, product);
  }

  /// Eight pixels at a time; the last eight end with their line and may overlap those before.
  PV_AVX2 static void avx2(const PixelLevels& levels, const PixelBlock& block, float* out) {
    if (block.width < 8) return plain(levels, block, out);
    constexpr char N = -128;  // a zero
    // Where the bytes of a channel are among the first 16 of 24, and among the last 16.
    const __m128i in_first[3] = {_mm_setr_epi8(0, 3, 6, 9, 12, 15, N, N, N, N, N, N, N, N, N, N),
                                 _mm_setr_epi8(1, 4, 7, 10, 13, N, N, N, N, N, N, N, N, N, N, N),
                                 _mm_setr_epi8(2, 5, 8, 11, 14, N, N, N, N, N, N, N, N, N, N, N)};
    const __m128i in_last[3] = {_mm_setr_epi8(N, N, N, N, N, N, 10, 13, N, N, N, N, N, N, N, N),
                                _mm_setr_epi8(N, N, N, N, N, 8, 11, 14, N, N, N, N, N, N, N, N),
                                _mm_setr_epi8(N, N, N, N, N, 9, 12, 15, N, N, N, N, N, N, N, N)};
    const __m256 range = _mm256_set1_ps(255.0F), inverse_range = _mm256_set1_ps(1.0F / 255.0F);
    __m256 mean[3], std[3], inverse_std[3];
    for (int c = 0; c < 3; ++c) {
      mean[c] = _mm256_set1_ps(levels.channels_[c].mean);
      std[c] = _mm256_set1_ps(levels.channels_[c].std);
      inverse_std[c] = _mm256_set1_ps(levels.channels_[c].inverse_std);
    }
    const std::ptrdiff_t plane = std::ptrdiff_t{block.width} * block.height;
    for (int y = 0; y < block.height; ++y, out += block.width) {
      const std::uint8_t* rgb = block.rgb + y * block.stride;
      for (int x = 0; x < block.width; x += 8) {
        x = std::min(x, block.width - 8);
        const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb + 3 * x));
        const __m128i last = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb + 3 * x + 8));
#pragma GCC unroll 3
        for (int c = 0; c < 3; ++c) {
          const __m128i bytes = _mm_or_si128(_mm_shuffle_epi8(first, in_first[c]), _mm_shuffle_epi8(last, in_last[c]));
          const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
          const __m256 centred = _mm256_sub_ps(divide(values, range, inverse_range), mean[c]);
          _mm256_storeu_ps(out + c * plane + x, divide(centred, std[c], inverse_std[c]));
        }
      }
    }
  }

  /// Sixteen pixels at a time, the last ones of a line under a mask.
  PV_AVX512 static void avx512(const PixelLevels& levels, const PixelBlock& block, float* out) {
    alignas(64) static constexpr auto kPlaces = [] {  // of 16 red, 16 green, 16 blue bytes
      std::array<std::uint8_t, 64> places{};
      for (int i = 0; i < 48; ++i) places[i] = static_cast<std::uint8_t>(3 * (i % 16) + i / 16);
      return places;
    }();
    const __m512i places = _mm512_load_si512(kPlaces.data());
    const __m512 range = _mm512_set1_ps(255.0F), inverse_range = _mm512_set1_ps(1.0F / 255.0F);
    __m512 mean[3], std[3], inverse_std[3];
    for (int c = 0; c < 3; ++c) {
      mean[c] = _mm512_set1_ps(levels.channels_[c].mean);
      std[c] = _mm512_set1_ps(levels.channels_[c].std);
      inverse_std[c] = _mm512_set1_ps(levels.channels_[c].inverse_std);
    }
    const std::ptrdiff_t plane = std::ptrdiff_t{block.width} * block.height;
    for (int y = 0; y < block.height; ++y, out += block.width) {
      const std::uint8_t* rgb = block.rgb + y * block.stride;
      for (int x = 0; x < block.width; x += 16) {
        const int size = std::min(16, block.width - x);
        const __m512i pixels = _mm512_maskz_loadu_epi8((std::uint64_t{1} << (3 * size)) - 1, rgb + 3 * x);
        const __m512i sorted = _mm512_permutexvar_epi8(places, pixels);
        const __m128i bytes[3] = {_mm512_castsi512_si128(sorted),
                                  _mm512_extracti32x4_epi32(sorted, 1),
                                  _mm512_extracti32x4_epi32(sorted, 2)};
#pragma GCC unroll 3
        for (int c = 0; c < 3; ++c) {
          const __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes[c]));
          const __m512 centred = _mm512_sub_ps(divide(values, range, inverse_range), mean[c]);
          _mm512_mask_storeu_ps(out + c * plane + x,
                                static_cast<__mmask16>((1U << size) - 1),
                                divide(centred, std[c], inverse_std[c]));
        }
      }
    }
  }

#endif  // PV_PIXELS_X86

  static PixelLevels::Loop best([[maybe_unused]] PixelLoop fastest) {
#ifdef PV_PIXELS_X86
    if (fastest >= PixelLoop::kAvx512 && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      return avx512;
    }
    if (fastest >= PixelLoop::kAvx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
    return plain;
  }

  /// Whether `loop` gives all levels to the last bit: tiny or huge means and deviations may leave what divide() can do.
  static bool agrees(const PixelLevels& levels, PixelLevels::Loop loop) {
    std::array<std::uint8_t, 3 * 256> greys;
    for (int i = 0; i < 3 * 256; ++i) greys[i] = static_cast<std::uint8_t>(i / 3);
    const PixelBlock block{greys.data(), 3 * 256, 256, 1};
    std::array<float, 3 * 256> found, expected;
    loop(levels, block, found.data());
    plain(levels, block, expected.data());
    return found == expected;
  }
};

PixelLevels::PixelLevels(const std::vector<double>& mean, const std::vector<double>& std, PixelLoop fastest)
    : normalise_(PixelLoops::best(fastest)) {
  for (std::size_t c = 0; c < 3; ++c) {
    Channel& channel = channels_[c];
    channel.mean = static_cast<float>(mean[c]);
    channel.std = static_cast<float>(std[c]);
    channel.inverse_std = 1.0F / channel.std;
    for (int value = 0; value < 256; ++value) {
      channel.levels[value] = (static_cast<float>(value) / 255.0F - channel.mean) / channel.std;
    }
  }
  if (!PixelLoops::agrees(*this, normalise_)) normalise_ = PixelLoops::plain;
}

}  // namespace pocketvlm
