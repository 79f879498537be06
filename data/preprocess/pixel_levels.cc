#include "data/preprocess/pixel_levels.h"

#include <algorithm>

// Compiled beside the plain loop and chosen at run time.
#if defined(__x86_64__) && defined(__GNUC__)
#define PV_PIXELS_X86 1
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of g++ 12, about its own AVX-512 header
#include <immintrin.h>
#endif

namespace pocketvlm {

/// All loops write one channel after the other: memory takes one run of bytes faster than three.
struct PixelLoops {
  static constexpr PixelLevels::Inverse kInverseRange = PixelLevels::inverse_of(255.0F);

  static void plain(const PixelLevels& levels, const PixelBlock& block, float* out) {
    for (int c = 0; c < 3; ++c) {
      const auto& channel = levels.channels_[c].levels;
      for (int y = 0; y < block.height; ++y) {
        const std::uint8_t* bytes = block.rgb + y * block.stride + c;
        for (int x = 0; x < block.width; ++x, ++out) *out = channel[bytes[3 * x]];
      }
    }
  }

#ifdef PV_PIXELS_X86

#define PV_AVX2 [[gnu::target("avx2,fma")]]
#define PV_AVX512 [[gnu::target("avx512f,avx512bw,avx512vl,avx512vbmi")]]

  /// a / b, rounded as by a division, where b's inverse is given as the sum of two floats: all but the last bits of the
  /// quotient come from a fused multiply-add that rounds once.
  PV_AVX2 static __m256 divide(__m256 a, __m256 inverse, __m256 rest) {
    return _mm256_fmadd_ps(a, inverse, _mm256_mul_ps(a, rest));
  }

  PV_AVX512 static __m512 divide(__m512 a, __m512 inverse, __m512 rest) {
    return _mm512_fmadd_ps(a, inverse, _mm512_mul_ps(a, rest));
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
    const __m256 inverse_range = _mm256_set1_ps(kInverseRange.first), rest_range = _mm256_set1_ps(kInverseRange.rest);
    for (int c = 0; c < 3; ++c) {
      const PixelLevels::Channel& channel = levels.channels_[c];
      const __m256 mean = _mm256_set1_ps(channel.mean);
      const __m256 inverse_std = _mm256_set1_ps(channel.inverse_std.first), rest_std = _mm256_set1_ps(channel.inverse_std.rest);
      for (int y = 0; y < block.height; ++y, out += block.width) {
        const std::uint8_t* rgb = block.rgb + y * block.stride;
        for (int x = 0; x < block.width; x += 8) {
          x = std::min(x, block.width - 8);
          const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb + 3 * x));
          const __m128i last = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb + 3 * x + 8));
          const __m128i bytes = _mm_or_si128(_mm_shuffle_epi8(first, in_first[c]), _mm_shuffle_epi8(last, in_last[c]));
          const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
          const __m256 centred = _mm256_sub_ps(divide(values, inverse_range, rest_range), mean);
          _mm256_storeu_ps(out + x, divide(centred, inverse_std, rest_std));
        }
      }
    }
  }

  /// Sixteen pixels of one channel.
  struct Sixteen {
    __m512i places;  // of their bytes, each at the low end of 32 bits
    __m512 inverse_range, rest_range, mean, inverse_std, rest_std;

    PV_AVX512 __m512 levels(std::uint64_t bytes_there, const std::uint8_t* rgb) const {
      constexpr std::uint64_t kLowBytes = 0x1111111111111111;
      const __m512i pixels = _mm512_maskz_loadu_epi8(bytes_there, rgb);
      const __m512 values = _mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(kLowBytes, places, pixels));
      return divide(_mm512_sub_ps(divide(values, inverse_range, rest_range), mean), inverse_std, rest_std);
    }
  };

  /// Sixteen pixels at a time, the last ones of a line under a mask. Stores are whole where they can be: what goes beyond a
  /// line is written again with the next one, which takes half the time of stores under a mask.
  PV_AVX512 static void avx512(const PixelLevels& levels, const PixelBlock& block, float* out) {
    alignas(64) static constexpr auto kPlaces = [] {
      std::array<std::array<std::uint8_t, 64>, 3> places{};
      for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < 16; ++i) places[c][4 * i] = static_cast<std::uint8_t>(3 * i + c);
      }
      return places;
    }();
    constexpr std::uint64_t kWholeBytes = (std::uint64_t{1} << 48) - 1;
    const int tail = block.width % 16, whole = block.width - tail;
    const auto tail_numbers = static_cast<__mmask16>((1U << tail) - 1);
    const std::uint64_t tail_bytes = (std::uint64_t{1} << (3 * tail)) - 1;
    std::ptrdiff_t left = 3 * std::ptrdiff_t{block.width} * block.height;
    for (int c = 0; c < 3; ++c) {
      const PixelLevels::Channel& channel = levels.channels_[c];
      const Sixteen sixteen = {_mm512_load_si512(kPlaces[c].data()),
                               _mm512_set1_ps(kInverseRange.first),
                               _mm512_set1_ps(kInverseRange.rest),
                               _mm512_set1_ps(channel.mean),
                               _mm512_set1_ps(channel.inverse_std.first),
                               _mm512_set1_ps(channel.inverse_std.rest)};
      for (int y = 0; y < block.height; ++y) {
        const std::uint8_t* rgb = block.rgb + y * block.stride;
        for (int x = 0; x < whole; x += 16, rgb += 48, out += 16, left -= 16) {
          _mm512_storeu_ps(out, sixteen.levels(kWholeBytes, rgb));
        }
        if (tail == 0) continue;
        if (left >= 16) {
          _mm512_storeu_ps(out, sixteen.levels(tail_bytes, rgb));
        } else {
          _mm512_mask_storeu_ps(out, tail_numbers, sixteen.levels(tail_bytes, rgb));
        }
        out += tail;
        left -= tail;
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
    channel.inverse_std = inverse_of(channel.std);
    for (int value = 0; value < 256; ++value) {
      channel.levels[value] = (static_cast<float>(value) / 255.0F - channel.mean) / channel.std;
    }
  }
  if (!PixelLoops::agrees(*this, normalise_)) normalise_ = PixelLoops::plain;
}

}  // namespace pocketvlm
