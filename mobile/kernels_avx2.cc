#include <immintrin.h>

#include "mobile/kernels_simd.h"
#include "mobile/panel_kernels.h"
#include "mobile/vector_kernels.h"

// Compiled with AVX2, FMA and F16C; run only where the processor has them. No header with inline
// functions of external linkage may be used here, or its copy might run elsewhere.
namespace pocketvlm {
namespace {

struct Vector256 {
  using Type = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kRows = 4;
  static constexpr int kTokens = 2;

  static __m256i mask(std::int64_t n) {
    const __m256i lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lanes);
  }
  static Type zero() { return _mm256_setzero_ps(); }
  static Type set1(float value) { return _mm256_set1_ps(value); }
  static Type load(const float* p) { return _mm256_loadu_ps(p); }
  static Type load_part(const float* p, std::int64_t n) { return _mm256_maskload_ps(p, mask(n)); }
  static void store(float* p, Type v) { _mm256_storeu_ps(p, v); }
  static void store_part(float* p, Type v, std::int64_t n) { _mm256_maskstore_ps(p, mask(n), v); }
  static Type load_f16(const std::uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_halves(std::uint16_t* p, Type v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static Type load_bf16(const std::uint8_t* p) {
    const __m256i wide =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static Type add(Type a, Type b) { return _mm256_add_ps(a, b); }
  static Type sub(Type a, Type b) { return _mm256_sub_ps(a, b); }
  static Type mul(Type a, Type b) { return _mm256_mul_ps(a, b); }
  static Type div(Type a, Type b) { return _mm256_div_ps(a, b); }
  static Type fma(Type a, Type b, Type c) { return _mm256_fmadd_ps(a, b, c); }
  static Type max(Type a, Type b) { return _mm256_max_ps(a, b); }
  static Type min(Type a, Type b) { return _mm256_min_ps(a, b); }
  static Type abs(Type a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
  static Type round(Type a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Type pow2(Type n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  static float sum(Type a) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
  }
  static float largest(Type a) {
    const __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
  }
  static Type select_negative(Type x, Type if_negative, Type otherwise) {
    return _mm256_blendv_ps(otherwise, if_negative, x);
  }
};

__m256i load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
float half(std::uint16_t bits) { return _cvtsh_ss(bits); }

// Eight sums of four products of levels and inputs. Levels up to 63 are unsigned and cannot
// overflow the 16-bit pairs; those of Q8_0 are signed, so the sign moves to the input.
template <typename Block>
__m256i dot_levels(__m256i levels, __m256i x) {
  __m256i pairs;
  if constexpr (sizeof(Block) == sizeof(BlockQ8_0)) {
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(x, levels));
  } else {
    pairs = _mm256_maddubs_epi16(levels, x);
  }
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

struct Panel256 {
  static constexpr int kRows = 8;
  static constexpr int kTokens = 4;
  static constexpr bool kSignedLevels = true;
  using Int = __m256i;
  using Levels = __m256i;
  using Float = __m256;

  static Int zero_int() { return _mm256_setzero_si256(); }
  static Levels load_levels(const std::uint8_t* p) { return load32(p); }
  template <typename Block>
  static Int dot(Int sum, Levels levels, const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm256_add_epi32(sum, dot_levels<Block>(levels, _mm256_set1_epi32(four)));
  }
  static Float to_float(Int v) { return _mm256_cvtepi32_ps(v); }
  static Float zero() { return Vector256::zero(); }
  static Float set1(float value) { return Vector256::set1(value); }
  static Float load(const float* p) { return Vector256::load(p); }
  static Float mul(Float a, Float b) { return Vector256::mul(a, b); }
  static Float fma(Float a, Float b, Float c) { return Vector256::fma(a, b, c); }
  static void store(float* p, Float v) { Vector256::store(p, v); }
  static void store_part(float* p, Float v, std::int64_t n) { Vector256::store_part(p, v, n); }
};

// Levels of one 32-block as bytes, and what makes x = d level + constant of it: either kBias * d or
// a stored m.
__m256i nibbles(const std::uint8_t* qs) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(qs));
  const __m256i both =
      _mm256_inserti128_si256(_mm256_castsi128_si256(packed), _mm_srli_epi16(packed, 4), 1);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}
__m256i with_fifth_bits(__m256i levels, const std::uint8_t* qh) {
  std::int32_t bits;
  __builtin_memcpy(&bits, qh, 4);
  // Byte k of the word in lanes 8 k .. 8 k + 7, then one bit a lane.
  const __m256i order =
      _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), order);
  const __m256i select = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, select), select);
  return _mm256_or_si256(levels, _mm256_and_si256(set, _mm256_set1_epi8(16)));
}
__m256i levels_of(const BlockQ8_0& block) { return load32(block.q); }
__m256i levels_of(const BlockQ4_0& block) { return nibbles(block.qs); }
__m256i levels_of(const BlockQ4_1& block) { return nibbles(block.qs); }
__m256i levels_of(const BlockQ5_0& block) { return with_fifth_bits(nibbles(block.qs), block.qh); }
__m256i levels_of(const BlockQ5_1& block) { return with_fifth_bits(nibbles(block.qs), block.qh); }

template <typename Block>
float constant_of(const Block& block, float d) {
  if constexpr (requires { block.m; })
    return half(block.m);
  else if constexpr (sizeof(Block) == sizeof(BlockQ4_0))
    return -8.0F * d;
  else if constexpr (sizeof(Block) == sizeof(BlockQ5_0))
    return -16.0F * d;
  else
    return 0.0F;
}

template <typename Block>
float dot_blocks(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  const std::int64_t count = input.columns / 32;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * count;
  const float* sums = input.sums32 + token * count;
  __m256 total = _mm256_setzero_ps();
  float constant = 0.0F;
  for (std::int64_t b = 0; b < count; ++b) {
    const float d = half(blocks[b].d);
    const __m256i dot = dot_levels<Block>(levels_of(blocks[b]), load32(x + 32 * b));
    total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(d * scales[b]), total);
    constant += constant_of(blocks[b], d) * sums[b];
  }
  return Vector256::sum(total) + constant;
}

template <typename Block>
float dot_affine(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  const std::int64_t count = input.columns / 256;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * 8 * count;
  const float* sums = input.sums32 + token * 8 * count;
  __m256 total = _mm256_setzero_ps();
  float constant = 0.0F;
  for (std::int64_t b = 0; b < count; ++b) {
    const Block& block = blocks[b];
    const float d = half(block.d);
    const float dmin = half(block.dmin);
    for (int j = 0; j < 8; ++j) {
      const ScaleMin pair = unpack_scale_min(block.scales, j);
      const __m256i packed = load32(block.qs + 32 * (j / 2));
      __m256i levels = _mm256_and_si256(j % 2 == 0 ? packed : _mm256_srli_epi16(packed, 4),
                                        _mm256_set1_epi8(15));
      if constexpr (requires { block.qh; }) {
        const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << j));
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(load32(block.qh), bit), bit);
        levels = _mm256_or_si256(levels, _mm256_and_si256(set, _mm256_set1_epi8(16)));
      }
      const __m256i dot = dot_levels<Block>(levels, load32(x + 256 * b + 32 * j));
      const float product = d * static_cast<float>(pair.scale) * scales[8 * b + j];
      total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(product), total);
      constant += dmin * static_cast<float>(pair.min) * sums[8 * b + j];
    }
  }
  return Vector256::sum(total) - constant;
}

float dot_q6_k(const std::uint8_t* row, const MatmulInput& input, std::int64_t token) {
  const auto* blocks = reinterpret_cast<const BlockQ6_K*>(row);
  const std::int64_t count = input.columns / 256;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * 8 * count;
  const float* sums = input.sums16 + token * 16 * count;
  __m256 total = _mm256_setzero_ps();
  __m256 constants = _mm256_setzero_ps();
  for (std::int64_t b = 0; b < count; ++b) {
    const BlockQ6_K& block = blocks[b];
    const __m256 d = _mm256_set1_ps(half(block.d));
    alignas(32) float factors[16];
    for (int k = 0; k < 16; k += 8) {
      const __m128i stored = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block.scales + k));
      const __m256 eight = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(stored)), d);
      constants = _mm256_fmadd_ps(eight, _mm256_loadu_ps(sums + 16 * b + k), constants);
      _mm256_store_ps(factors + k, eight);
    }
    for (int j = 0; j < 8; ++j) {  // 32 levels each
      const int quarter = j % 4;
      const __m256i low = load32(block.ql + 64 * (j / 4) + 32 * (quarter % 2));
      const __m256i high = load32(block.qh + 32 * (j / 4));
      const __m256i four =
          _mm256_and_si256(quarter < 2 ? low : _mm256_srli_epi16(low, 4), _mm256_set1_epi8(15));
      const __m256i two = _mm256_and_si256(_mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * quarter)),
                                           _mm256_set1_epi8(3));
      const __m256i levels = _mm256_or_si256(four, _mm256_slli_epi16(two, 4));
      const __m256i dot = dot_levels<BlockQ6_K>(levels, load32(x + 256 * b + 32 * j));
      const __m256 pair = _mm256_insertf128_ps(
          _mm256_castps128_ps256(_mm_set1_ps(factors[2 * j])), _mm_set1_ps(factors[2 * j + 1]), 1);
      total = _mm256_fmadd_ps(
          _mm256_cvtepi32_ps(dot), _mm256_mul_ps(pair, _mm256_set1_ps(scales[8 * b + j])), total);
    }
  }
  return Vector256::sum(total) - 32.0F * Vector256::sum(constants);
}

std::int32_t sum_ints(__m256i v) {
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 1)));
}

void quantize_vector(const float* x, std::int64_t n, const QuantizedRow& out) {
  for (std::int64_t b = 0; b < n / 32; ++b) {
    __m256 v[4];
    __m256 top = _mm256_setzero_ps();
    for (int k = 0; k < 4; ++k) {
      v[k] = _mm256_loadu_ps(x + 32 * b + 8 * k);
      top = _mm256_max_ps(top, Vector256::abs(v[k]));
    }
    const float largest = Vector256::largest(top);
    const float scale = largest / 127.0F;
    const __m256 inverse = _mm256_set1_ps(largest > 0.0F ? 127.0F / largest : 0.0F);
    // Infinity and NaN, which damaged weights lead to, become 0 in every kernel table.
    const auto levels = [inverse](__m256 values) {
      const __m256 product = _mm256_mul_ps(values, inverse);
      const __m256 finite = _mm256_cmp_ps(Vector256::abs(product), _mm256_set1_ps(127.5F), _CMP_LE_OQ);
      return _mm256_cvtps_epi32(_mm256_and_ps(product, finite));
    };
    std::int32_t sums[2];
    for (int h = 0; h < 2; ++h) {
      const __m256i low = levels(v[2 * h]);
      const __m256i high = levels(v[2 * h + 1]);
      sums[h] = sum_ints(_mm256_add_epi32(low, high));
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
      const __m128i bytes =
          _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out.quants + 32 * b + 16 * h), bytes);
      out.sums16[2 * b + h] = scale * static_cast<float>(sums[h]);
    }
    out.scales[b] = scale;
    out.sums32[b] = scale * static_cast<float>(sums[0] + sums[1]);
  }
}

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kTable = {
      .name = "avx2",
      .matmul_f32 = float_matmul<Vector256, LoadF32<Vector256>>,
      .matmul_f16 = float_matmul<Vector256, LoadF16<Vector256>>,
      .matmul_bf16 = float_matmul<Vector256, LoadBf16<Vector256>>,
      .matmul_q8_0 = quantized_matmul<Panel256, BlockQ8_0, dot_blocks<BlockQ8_0>>,
      .matmul_q4_0 = quantized_matmul<Panel256, BlockQ4_0, dot_blocks<BlockQ4_0>>,
      .matmul_q4_1 = quantized_matmul<Panel256, BlockQ4_1, dot_blocks<BlockQ4_1>>,
      .matmul_q5_0 = quantized_matmul<Panel256, BlockQ5_0, dot_blocks<BlockQ5_0>>,
      .matmul_q5_1 = quantized_matmul<Panel256, BlockQ5_1, dot_blocks<BlockQ5_1>>,
      .matmul_q4_k = quantized_matmul<Panel256, BlockQ4_K, dot_affine<BlockQ4_K>>,
      .matmul_q5_k = quantized_matmul<Panel256, BlockQ5_K, dot_affine<BlockQ5_K>>,
      .matmul_q6_k = quantized_matmul<Panel256, BlockQ6_K, dot_q6_k>,
      .packed_matmul = nullptr,
      .matmul_int8 = nullptr,
      .quantize_int8 = nullptr,
      .attend_bf16 = nullptr,
      .quantize = quantize_vector,
      .softmax = vector_softmax<Vector256>,
      .silu_multiply = vector_silu_multiply<Vector256>,
      .activate = vector_activate<Vector256>,
      .rms_norm = vector_rms_norm<Vector256>,
      .layer_norm = vector_layer_norm<Vector256>,
      .add_scaled = vector_add_scaled<Vector256>,
      .to_half = vector_to_half<Vector256>,
  };
  return kTable;
}

}  // namespace pocketvlm
