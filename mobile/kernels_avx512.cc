#include <immintrin.h>

#include "mobile/kernels_simd.h"
#include "mobile/panel_kernels.h"
#include "mobile/vector512.h"
#include "mobile/vector_kernels.h"

// Compiled with the AVX-512 F, BW, DQ, VL and VNNI instructions; run only where the processor has
// them. No header with inline functions of external linkage may be used here, or its copy might run
// elsewhere.
namespace pocketvlm {
namespace {

struct Panel512 {
  static constexpr int kRows = 16;
  static constexpr int kTokens = 8;
  static constexpr bool kSignedLevels = false;
  using Int = __m512i;
  using Levels = __m512i;
  using Float = __m512;

  static Int zero_int() { return _mm512_setzero_si512(); }
  static Levels load_levels(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
  template <typename Block>
  static Int dot(Int sum, Levels levels, const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sum, levels, _mm512_set1_epi32(four));
  }
  static Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
  static Float zero() { return Vector512::zero(); }
  static Float set1(float value) { return Vector512::set1(value); }
  static Float load(const float* p) { return Vector512::load(p); }
  static Float mul(Float a, Float b) { return Vector512::mul(a, b); }
  static Float fma(Float a, Float b, Float c) { return Vector512::fma(a, b, c); }
  static void store(float* p, Float v) { Vector512::store(p, v); }
  static void store_part(float* p, Float v, std::int64_t n) { Vector512::store_part(p, v, n); }
};

__m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
__m512i twice(__m256i v) { return _mm512_broadcast_i64x4(v); }
__m512i join(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
// `low` in each 16-bit lane of the lower half, `high` in the upper.
__m512i shifts(int low, int high) {
  return join(_mm256_set1_epi16(static_cast<short>(low)),
              _mm256_set1_epi16(static_cast<short>(high)));
}
float half(std::uint16_t bits) { return _cvtsh_ss(bits); }

// Levels of one 32-block as bytes, and what makes x = d level + constant of it: either kBias * d or
// a stored m.
__m256i nibbles(const std::uint8_t* qs) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(qs));
  const __m256i both =
      _mm256_inserti128_si256(_mm256_castsi128_si256(packed), _mm_srli_epi16(packed, 4), 1);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}
__m256i with_fifth_bits(__m256i levels, const std::uint8_t* qh) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, qh, 4);
  return _mm256_mask_add_epi8(levels, bits, levels, _mm256_set1_epi8(16));
}
__m256i levels_of(const BlockQ8_0& block) {
  return _mm256_xor_si256(load32(block.q), _mm256_set1_epi8(-128));
}
__m256i levels_of(const BlockQ4_0& block) { return nibbles(block.qs); }
__m256i levels_of(const BlockQ4_1& block) { return nibbles(block.qs); }
__m256i levels_of(const BlockQ5_0& block) { return with_fifth_bits(nibbles(block.qs), block.qh); }
__m256i levels_of(const BlockQ5_1& block) { return with_fifth_bits(nibbles(block.qs), block.qh); }

template <typename Block>
constexpr float kBias = 0.0F;
template <>
constexpr float kBias<BlockQ8_0> = -128.0F;
template <>
constexpr float kBias<BlockQ4_0> = -8.0F;
template <>
constexpr float kBias<BlockQ5_0> = -16.0F;

template <typename Block>
std::uint16_t constant_bits(const Block& block) {
  if constexpr (requires { block.m; })
    return block.m;
  else
    return block.d;
}

// The half at the start of each of 16 blocks, as floats. Inserted one by one: through memory,
// sixteen short stores before a long load would stall.
template <typename Block>
__m512 sixteen_halves(const std::uint8_t* p) {
  const auto at = [p](int i) {
    short bits;
    __builtin_memcpy(&bits, p + i * static_cast<int>(sizeof(Block)), 2);
    return bits;
  };
  return _mm512_cvtph_ps(_mm256_setr_epi16(at(0),
                                           at(1),
                                           at(2),
                                           at(3),
                                           at(4),
                                           at(5),
                                           at(6),
                                           at(7),
                                           at(8),
                                           at(9),
                                           at(10),
                                           at(11),
                                           at(12),
                                           at(13),
                                           at(14),
                                           at(15)));
}

// One row of 32-blocks times one input row: 16 blocks share the conversion of their scales.
template <typename Block>
float dot_blocks(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  const std::int64_t count = input.columns / 32;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * count;
  const float* sums = input.sums32 + token * count;
  __m512 total = _mm512_setzero_ps();
  __m512 constants = _mm512_setzero_ps();
  std::int64_t b = 0;
  for (; b + 16 <= count; b += 16) {
    const __m512 factors =
        sixteen_halves<Block>(row + b * static_cast<std::int64_t>(sizeof(Block)));
    __m512 constant = factors;
    if constexpr (kBias<Block> == 0.0F)
      constant = sixteen_halves<Block>(row + b * static_cast<std::int64_t>(sizeof(Block)) + 2);
    constants = _mm512_fmadd_ps(constant, _mm512_loadu_ps(sums + b), constants);
    const __m512 products = _mm512_mul_ps(factors, _mm512_loadu_ps(scales + b));
    const __m512i upper = join(_mm256_setzero_si256(), _mm256_set1_epi32(1));
#pragma GCC unroll 8
    for (int pair = 0; pair < 8; ++pair) {
      const __m512i levels =
          join(levels_of(blocks[b + 2 * pair]), levels_of(blocks[b + 2 * pair + 1]));
      const __m512i dot = _mm512_dpbusd_epi32(
          _mm512_setzero_si512(), levels, _mm512_loadu_si512(x + 32 * (b + 2 * pair)));
      const __m512 product =
          _mm512_permutexvar_ps(_mm512_add_epi32(upper, _mm512_set1_epi32(2 * pair)), products);
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), product, total);
    }
  }
  float result = _mm512_reduce_add_ps(total);
  float constant = _mm512_reduce_add_ps(constants);
  for (; b < count; ++b) {
    const __m256i dot =
        _mm256_dpbusd_epi32(_mm256_setzero_si256(), levels_of(blocks[b]), load32(x + 32 * b));
    const __m512 wide = _mm512_cvtepi32_ps(_mm512_inserti64x4(_mm512_setzero_si512(), dot, 0));
    result += half(blocks[b].d) * scales[b] * _mm512_reduce_add_ps(wide);
    constant += half(constant_bits(blocks[b])) * sums[b];
  }
  return result + (kBias<Block> == 0.0F ? 1.0F : kBias<Block>)*constant;
}

struct ScalesAndMins {
  __m256 scales;
  __m256 mins;
};

// The eight 6-bit pairs of Q4_K and Q5_K.
ScalesAndMins unpack_pairs(const std::uint8_t* packed) {
  std::uint32_t a;
  std::uint32_t b;
  std::uint32_t c;
  __builtin_memcpy(&a, packed, 4);
  __builtin_memcpy(&b, packed + 4, 4);
  __builtin_memcpy(&c, packed + 8, 4);
  constexpr std::uint32_t kSix = 0x3F3F3F3FU;
  constexpr std::uint32_t kFour = 0x0F0F0F0FU;
  constexpr std::uint32_t kTwo = 0x03030303U;
  const std::uint64_t scales =
      (a & kSix) | static_cast<std::uint64_t>((c & kFour) | (a >> 6 & kTwo) << 4) << 32;
  const std::uint64_t mins =
      (b & kSix) | static_cast<std::uint64_t>((c >> 4 & kFour) | (b >> 6 & kTwo) << 4) << 32;
  const auto to_floats = [](std::uint64_t bytes) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
  };
  return {to_floats(scales), to_floats(mins)};
}

template <typename Block>
float dot_affine(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  const std::int64_t count = input.columns / 256;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * 8 * count;
  const float* sums = input.sums32 + token * 8 * count;
  const __m512i nibble_shifts = shifts(0, 4);
  const __m512i upper = join(_mm256_setzero_si256(), _mm256_set1_epi32(1));
  __m512 total = _mm512_setzero_ps();
  __m256 constants = _mm256_setzero_ps();
  for (std::int64_t b = 0; b < count; ++b) {
    const Block& block = blocks[b];
    const ScalesAndMins pairs = unpack_pairs(block.scales);
    const __m256 mins = _mm256_mul_ps(pairs.mins, _mm256_set1_ps(half(block.dmin)));
    constants = _mm256_fmadd_ps(mins, _mm256_loadu_ps(sums + 8 * b), constants);
    const __m256 factors = _mm256_mul_ps(pairs.scales, _mm256_set1_ps(half(block.d)));
    const __m512 products =
        _mm512_castps256_ps512(_mm256_mul_ps(factors, _mm256_loadu_ps(scales + 8 * b)));
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const __m512i packed = _mm512_srlv_epi16(twice(load32(block.qs + 32 * g)), nibble_shifts);
      __m512i levels = _mm512_and_si512(packed, _mm512_set1_epi8(15));
      if constexpr (requires { block.qh; }) {
        const __m512i bits = join(_mm256_set1_epi8(static_cast<char>(1 << (2 * g))),
                                  _mm256_set1_epi8(static_cast<char>(2 << (2 * g))));
        levels = _mm512_mask_add_epi8(levels,
                                      _mm512_test_epi8_mask(twice(load32(block.qh)), bits),
                                      levels,
                                      _mm512_set1_epi8(16));
      }
      const __m512i dot = _mm512_dpbusd_epi32(
          _mm512_setzero_si512(), levels, _mm512_loadu_si512(x + 256 * b + 64 * g));
      const __m512 product =
          _mm512_permutexvar_ps(_mm512_add_epi32(upper, _mm512_set1_epi32(2 * g)), products);
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), product, total);
    }
  }
  const __m512 wide = _mm512_insertf32x8(_mm512_setzero_ps(), constants, 0);
  return _mm512_reduce_add_ps(total) - _mm512_reduce_add_ps(wide);
}

float dot_q6_k(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const BlockQ6_K*>(row);
  const std::int64_t count = input.columns / 256;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * 8 * count;
  const float* sums = input.sums16 + token * 16 * count;
  const __m512i pairs = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  const __m512i quads = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  __m512 total = _mm512_setzero_ps();
  __m512 constants = _mm512_setzero_ps();
  for (std::int64_t b = 0; b < count; ++b) {
    const BlockQ6_K& block = blocks[b];
    const __m512i stored =
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block.scales)));
    const __m512 factors = _mm512_mul_ps(_mm512_cvtepi32_ps(stored), _mm512_set1_ps(half(block.d)));
    constants = _mm512_fmadd_ps(factors, _mm512_loadu_ps(sums + 16 * b), constants);
    const __m512 eight = _mm512_castps256_ps512(_mm256_loadu_ps(scales + 8 * b));
    const __m512 products = _mm512_mul_ps(factors, _mm512_permutexvar_ps(pairs, eight));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {  // 64 levels each
      const __m512i low = _mm512_loadu_si512(block.ql + 64 * (v / 2));
      const __m512i high = twice(load32(block.qh + 32 * (v / 2)));
      const __m512i four = v % 2 == 0 ? low : _mm512_srli_epi16(low, 4);
      const __m512i two = _mm512_srlv_epi16(high, v % 2 == 0 ? shifts(0, 2) : shifts(4, 6));
      const __m512i upper_bits = _mm512_slli_epi16(_mm512_and_si512(two, _mm512_set1_epi8(3)), 4);
      const __m512i levels =
          _mm512_or_si512(_mm512_and_si512(four, _mm512_set1_epi8(15)), upper_bits);
      const __m512i dot = _mm512_dpbusd_epi32(
          _mm512_setzero_si512(), levels, _mm512_loadu_si512(x + 256 * b + 64 * v));
      const __m512 product =
          _mm512_permutexvar_ps(_mm512_add_epi32(quads, _mm512_set1_epi32(4 * v)), products);
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), product, total);
    }
  }
  return _mm512_reduce_add_ps(total) - 32.0F * _mm512_reduce_add_ps(constants);
}

void quantize_vector(const float* x, std::int64_t n, const QuantizedRow& out) {
  for (std::int64_t b = 0; b < n / 32; ++b) {
    const __m512 first = _mm512_loadu_ps(x + 32 * b);
    const __m512 second = _mm512_loadu_ps(x + 32 * b + 16);
    const float largest =
        _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(second)));
    const float scale = largest / 127.0F;
    const __m512 inverse = _mm512_set1_ps(largest > 0.0F ? 127.0F / largest : 0.0F);
    const __m128i low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(first, inverse)));
    const __m128i high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(second, inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.quants + 32 * b), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.quants + 32 * b + 16), high);
    // Of the bytes: where the inverse is infinite, wider numbers would overflow.
    const int low_sum = _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(low));
    const int high_sum = _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(high));
    out.scales[b] = scale;
    out.sums16[2 * b] = scale * static_cast<float>(low_sum);
    out.sums16[2 * b + 1] = scale * static_cast<float>(high_sum);
    out.sums32[b] = scale * static_cast<float>(low_sum + high_sum);
  }
}

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kTable = {
      .name = "avx512vnni",
      .matmul_f32 = float_matmul<Vector512, LoadF32<Vector512>>,
      .matmul_f16 = float_matmul<Vector512, LoadF16<Vector512>>,
      .matmul_bf16 = float_matmul<Vector512, LoadBf16<Vector512>>,
      .matmul_q8_0 = quantized_matmul<Panel512, BlockQ8_0, dot_blocks<BlockQ8_0>>,
      .matmul_q4_0 = quantized_matmul<Panel512, BlockQ4_0, dot_blocks<BlockQ4_0>>,
      .matmul_q4_1 = quantized_matmul<Panel512, BlockQ4_1, dot_blocks<BlockQ4_1>>,
      .matmul_q5_0 = quantized_matmul<Panel512, BlockQ5_0, dot_blocks<BlockQ5_0>>,
      .matmul_q5_1 = quantized_matmul<Panel512, BlockQ5_1, dot_blocks<BlockQ5_1>>,
      .matmul_q4_k = quantized_matmul<Panel512, BlockQ4_K, dot_affine<BlockQ4_K>>,
      .matmul_q5_k = quantized_matmul<Panel512, BlockQ5_K, dot_affine<BlockQ5_K>>,
      .matmul_q6_k = quantized_matmul<Panel512, BlockQ6_K, dot_q6_k>,
      .packed_matmul = avx512_packed_matmul,
      .matmul_int8 = avx512_matmul_int8,
      .quantize_int8 = avx512_quantize_int8,
      .attend_bf16 = __builtin_cpu_supports("avx512bf16") ? avx512bf16_attend : nullptr,
      .quantize = quantize_vector,
      .softmax = vector_softmax<Vector512>,
      .silu_multiply = vector_silu_multiply<Vector512>,
      .activate = vector_activate<Vector512>,
      .rms_norm = vector_rms_norm<Vector512>,
      .layer_norm = vector_layer_norm<Vector512>,
      .add_scaled = vector_add_scaled<Vector512>,
      .to_half = vector_to_half<Vector512>,
  };
  return kTable;
}

}  // namespace pocketvlm
