#include <immintrin.h>

#include "mobile/kernels_simd.h"
#include "mobile/packed_formats.h"

// Products with packed weights. Single tokens read the panels as they stream from memory; many
// tokens meet panels whose levels were unpacked to bytes once. Compiled with the AVX-512 F, BW,
// DQ, VL and VNNI instructions, as kernels_avx512.cc is: nothing with external linkage but the
// functions of kernels_simd.h.
namespace pocketvlm {
namespace {

__m512i load(const void* p) { return _mm512_load_si512(p); }
__m512i low_nibbles(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
__m512i high_nibbles(__m512i v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
__m512 halves(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}
__m512 bytes_to_floats(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)); }
__m512i four_inputs(const std::int8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}
__m512 every(const float* p) { return _mm512_set1_ps(*p); }
__m512i dot(__m512i sum, __m512i levels, const std::int8_t* x) {
  return _mm512_dpbusd_epi32(sum, levels, four_inputs(x));
}

// The 6-bit scales and mins of sub-block j of 16 rows.
struct PairBytes {
  __m128i scales;
  __m128i mins;
};

PairBytes pair_bytes(const std::uint8_t (&b)[12][16], int j) {
  const auto row = [&b](int i) { return _mm_load_si128(reinterpret_cast<const __m128i*>(b[i])); };
  const __m128i six = _mm_set1_epi8(63);
  if (j < 4) return {_mm_and_si128(row(j), six), _mm_and_si128(row(j + 4), six)};
  const __m128i four = _mm_set1_epi8(15);
  const __m128i upper = _mm_set1_epi8(48);
  const __m128i both = row(j + 4);
  // Shifts within 16 bits bring strange bits in from a neighbour; the masks drop them.
  const __m128i scale_top = _mm_and_si128(_mm_srli_epi16(row(j - 4), 2), upper);
  const __m128i min_top = _mm_and_si128(_mm_srli_epi16(row(j), 2), upper);
  return {_mm_or_si128(_mm_and_si128(both, four), scale_top),
          _mm_or_si128(_mm_and_si128(_mm_srli_epi16(both, 4), four), min_top)};
}

// What subtracting a constant from all levels of a type takes away, in sums of inputs.
template <typename Unit>
constexpr float kBias = 0.0F;
template <>
constexpr float kBias<PackedQ8_0> = -128.0F;
template <>
constexpr float kBias<PackedQ4_0> = -8.0F;
template <>
constexpr float kBias<PackedQ5_0> = -16.0F;
template <>
constexpr float kBias<PackedQ6_K> = -32.0F;

// One input row. `constants` holds the scaled sums of 32 (Q6_K: 16) inputs, times the bias of the
// weight type where it has one.
struct InputRow {
  const std::int8_t* quants;
  const float* scales;
  const float* constants;
};

// How far ahead of the multiplication the next weights are asked for.
constexpr int kAhead = 2048;

template <typename Unit>
void prefetch(const Unit* unit) {
  const auto* next = reinterpret_cast<const char*>(unit) + kAhead;
#pragma GCC unroll 64
  for (int at = 0; at < static_cast<int>(sizeof(Unit)); at += 64)
    _mm_prefetch(next + at, _MM_HINT_T0);
}

void add_unit(const PackedQ8_0& unit, const InputRow& x, int c, __m512& total) {
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    __m512i even = _mm512_setzero_si512();
    __m512i odd = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int v = 0; v < 8; v += 2) {
      even = dot(even, load(unit.q[j][v]), x.quants + 32 * (c + j) + 4 * v);
      odd = dot(odd, load(unit.q[j][v + 1]), x.quants + 32 * (c + j) + 4 * v + 4);
    }
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
    const __m512 scaled = _mm512_fmadd_ps(sum, every(x.scales + c + j), every(x.constants + c + j));
    total = _mm512_fmadd_ps(scaled, halves(unit.d[j]), total);
  }
}

// The three types of 4 and 5 bits in blocks of 32.
template <typename Unit>
void add_unit(const Unit& unit, const InputRow& x, int c, __m512& total) {
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    __m512i first = _mm512_setzero_si512();
    __m512i second = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m512i packed = load(unit.qs[j][v]);
      __m512i low = low_nibbles(packed);
      __m512i high = high_nibbles(packed);
      if constexpr (requires { unit.qh; }) {
        const __m512i sixteen = _mm512_set1_epi8(16);
        low = _mm512_mask_add_epi8(low, unit.qh[j][v], low, sixteen);
        high = _mm512_mask_add_epi8(high, unit.qh[j][v + 4], high, sixteen);
      }
      first = dot(first, low, x.quants + 32 * (c + j) + 4 * v);
      second = dot(second, high, x.quants + 32 * (c + j) + 16 + 4 * v);
    }
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(first, second));
    if constexpr (requires { unit.m; }) {
      const __m512 scaled = _mm512_mul_ps(sum, every(x.scales + c + j));
      total = _mm512_fmadd_ps(scaled, halves(unit.d[j]), total);
      total = _mm512_fmadd_ps(halves(unit.m[j]), every(x.constants + c + j), total);
    } else {
      const __m512 scaled =
          _mm512_fmadd_ps(sum, every(x.scales + c + j), every(x.constants + c + j));
      total = _mm512_fmadd_ps(scaled, halves(unit.d[j]), total);
    }
  }
}

void add_unit(const PackedQ4_K& unit, const InputRow& x, int c, __m512& total) {
  __m512 scaled = _mm512_setzero_ps();
  __m512 lowered = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const std::int8_t* inputs = x.quants + 32 * (c + 2 * g);
    __m512i dots[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      const __m512i packed = load(unit.qs[g][v]);
      dots[0] = dot(dots[0], low_nibbles(packed), inputs + 4 * v);
      dots[1] = dot(dots[1], high_nibbles(packed), inputs + 32 + 4 * v);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const int j = 2 * g + h;
      const PairBytes pair = pair_bytes(unit.scales, j);
      const __m512 factor = _mm512_mul_ps(bytes_to_floats(pair.scales), every(x.scales + c + j));
      scaled = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[h]), factor, scaled);
      lowered = _mm512_fmadd_ps(bytes_to_floats(pair.mins), every(x.constants + c + j), lowered);
    }
  }
  total = _mm512_fmadd_ps(scaled, halves(unit.d), total);
  total = _mm512_fnmadd_ps(lowered, halves(unit.dmin), total);
}

// Levels of quarter k (32 columns) of a half of a Q6_K unit, four columns v.
template <int k>
__m512i q6_levels(const PackedQ6_K& unit, int half, int v) {
  const __m512i packed = load(unit.ql[half][k % 2 == 0 ? v : v + 8]);
  const __m512i low = k < 2 ? low_nibbles(packed) : high_nibbles(packed);
  const __m512i bits = load(unit.qh[half][v]);
  const __m512i moved = k == 0   ? _mm512_slli_epi16(bits, 4)
                        : k == 1 ? _mm512_slli_epi16(bits, 2)
                        : k == 2 ? bits
                                 : _mm512_srli_epi16(bits, 2);
  // low | (moved & 0x30)
  return _mm512_ternarylogic_epi64(low, moved, _mm512_set1_epi8(0x30), 0xF8);
}

void add_unit(const PackedQ6_K& unit, const InputRow& x, int c, __m512& total) {
  __m512 scaled = _mm512_setzero_ps();
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {  // 16 of the 32 columns of each quarter
      const std::int8_t* inputs = x.quants + 32 * (c + 4 * half) + 16 * part;
      __m512i dots[4] = {_mm512_setzero_si512(),
                         _mm512_setzero_si512(),
                         _mm512_setzero_si512(),
                         _mm512_setzero_si512()};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int v = 4 * part + i;
        dots[0] = dot(dots[0], q6_levels<0>(unit, half, v), inputs + 4 * i);
        dots[1] = dot(dots[1], q6_levels<1>(unit, half, v), inputs + 32 + 4 * i);
        dots[2] = dot(dots[2], q6_levels<2>(unit, half, v), inputs + 64 + 4 * i);
        dots[3] = dot(dots[3], q6_levels<3>(unit, half, v), inputs + 96 + 4 * i);
      }
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int at = 4 * half + k;  // of the 32 columns
        const int sub = 2 * at + part;
        const __m512 factor = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
            _mm_load_si128(reinterpret_cast<const __m128i*>(unit.scales[sub]))));
        const __m512 part_sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[k]),
                                                every(x.scales + c + at),
                                                every(x.constants + 2 * c + sub));
        scaled = _mm512_fmadd_ps(part_sum, factor, scaled);
      }
    }
  }
  total = _mm512_fmadd_ps(scaled, halves(unit.d), total);
}

void store_rows(float* y, __m512 values, std::int64_t rows) {
  if (rows >= kPanelRows)
    _mm512_storeu_ps(y, values);
  else
    _mm512_mask_storeu_ps(y, static_cast<__mmask16>((1U << rows) - 1U), values);
}

// Sums of inputs that belong to one scale: 16 of them for Q6_K, else 32.
template <typename Unit>
constexpr int kScaleColumns = 32;
template <>
constexpr int kScaleColumns<PackedQ6_K> = 16;

// The sums times the bias, for `tokens` input rows.
template <typename Unit>
const float* constants_of(const MatmulInput& input, float* scratch) {
  const float* sums = kScaleColumns<Unit> == 16 ? input.sums16 : input.sums32;
  if (kBias<Unit> == 0.0F) return sums;
  const std::int64_t count = input.tokens * input.columns / kScaleColumns<Unit>;
  const __m512 bias = _mm512_set1_ps(kBias<Unit>);
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(scratch + i, _mm512_mul_ps(_mm512_loadu_ps(sums + i), bias));
  for (; i < count; ++i) scratch[i] = sums[i] * kBias<Unit>;
  return scratch;
}

template <typename Unit>
void stream_panels(const PackedRows& weights,
                   const MatmulInput& input,
                   const float* constants,
                   float* y,
                   std::int64_t y_stride) {
  const std::int64_t units = input.columns / Unit::kColumns;
  constexpr int kGroups = Unit::kColumns / 32;
  const auto* unit = static_cast<const Unit*>(weights.data);
  for (std::int64_t first = 0; first < weights.rows; first += kPanelRows, unit += units) {
    for (std::int64_t t = 0; t < input.tokens; ++t) {
      const InputRow x = {input.quants + t * input.columns,
                          input.scales + t * input.columns / 32,
                          constants + t * input.columns / kScaleColumns<Unit>};
      __m512 total = _mm512_setzero_ps();
      for (std::int64_t u = 0; u < units; ++u) {
        prefetch(unit + u);
        add_unit(unit[u], x, static_cast<int>(u) * kGroups, total);
      }
      store_rows(y + t * y_stride + first, total, weights.rows - first);
    }
  }
}

// 32 columns of a panel with their levels as bytes.
template <typename Unit>
struct alignas(64) OpenBlock {
  static constexpr int kHalves = 32 / kScaleColumns<Unit>;
  static constexpr bool kOffsets = kBias<Unit> == 0.0F;
  std::uint8_t levels[8][64];
  float factors[kHalves + (kOffsets ? 1 : 0)][16];  // scales, then the offset
};

void store(void* p, __m512i v) { _mm512_store_si512(p, v); }

void open_unit(const PackedQ8_0& unit, OpenBlock<PackedQ8_0>* blocks) {
  for (int j = 0; j < 2; ++j) {
    for (int v = 0; v < 8; ++v) store(blocks[j].levels[v], load(unit.q[j][v]));
    _mm512_store_ps(blocks[j].factors[0], halves(unit.d[j]));
  }
}

template <typename Unit>
void open_unit(const Unit& unit, OpenBlock<Unit>* blocks) {
  for (int j = 0; j < 2; ++j) {
    for (int v = 0; v < 4; ++v) {
      const __m512i packed = load(unit.qs[j][v]);
      __m512i low = low_nibbles(packed);
      __m512i high = high_nibbles(packed);
      if constexpr (requires { unit.qh; }) {
        const __m512i sixteen = _mm512_set1_epi8(16);
        low = _mm512_mask_add_epi8(low, unit.qh[j][v], low, sixteen);
        high = _mm512_mask_add_epi8(high, unit.qh[j][v + 4], high, sixteen);
      }
      store(blocks[j].levels[v], low);
      store(blocks[j].levels[v + 4], high);
    }
    _mm512_store_ps(blocks[j].factors[0], halves(unit.d[j]));
    if constexpr (requires { unit.m; }) _mm512_store_ps(blocks[j].factors[1], halves(unit.m[j]));
  }
}

void open_unit(const PackedQ4_K& unit, OpenBlock<PackedQ4_K>* blocks) {
  const __m512 d = halves(unit.d);
  const __m512 dmin = _mm512_sub_ps(_mm512_setzero_ps(), halves(unit.dmin));
  for (int j = 0; j < 8; ++j) {
    OpenBlock<PackedQ4_K>& block = blocks[j];
    for (int v = 0; v < 8; ++v) {
      const __m512i packed = load(unit.qs[j / 2][v]);
      store(block.levels[v], j % 2 == 0 ? low_nibbles(packed) : high_nibbles(packed));
    }
    const PairBytes pair = pair_bytes(unit.scales, j);
    _mm512_store_ps(block.factors[0], _mm512_mul_ps(d, bytes_to_floats(pair.scales)));
    _mm512_store_ps(block.factors[1], _mm512_mul_ps(dmin, bytes_to_floats(pair.mins)));
  }
}

void open_unit(const PackedQ6_K& unit, OpenBlock<PackedQ6_K>* blocks) {
  const __m512 d = halves(unit.d);
  for (int half = 0; half < 2; ++half) {
    OpenBlock<PackedQ6_K>* four = blocks + 4 * half;
    for (int v = 0; v < 8; ++v) {
      store(four[0].levels[v], q6_levels<0>(unit, half, v));
      store(four[1].levels[v], q6_levels<1>(unit, half, v));
      store(four[2].levels[v], q6_levels<2>(unit, half, v));
      store(four[3].levels[v], q6_levels<3>(unit, half, v));
    }
  }
  for (int sub = 0; sub < 16; ++sub) {
    const __m512 factor = _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(unit.scales[sub]))));
    _mm512_store_ps(blocks[sub / 2].factors[sub % 2], _mm512_mul_ps(d, factor));
  }
}

// kPanels panels times kTokens input rows. `blocks` of the second panel follow `panel_blocks`
// after those of the first.
template <typename Unit, int kPanels, int kTokens>
void open_tile(const OpenBlock<Unit>* panel,
               std::int64_t panel_blocks,
               const MatmulInput& input,
               const float* constants,
               std::int64_t token,
               std::int64_t rows,
               float* y,
               std::int64_t y_stride) {
  constexpr int kHalves = OpenBlock<Unit>::kHalves;
  constexpr int kSteps = 8 / kHalves;
  const std::int64_t count = input.columns / 32;
  const std::int8_t* x = input.quants + token * input.columns;
  const float* scales = input.scales + token * count;
  const float* sums = constants + token * count * kHalves;
  __m512 totals[kPanels][kTokens];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) totals[p][t] = _mm512_setzero_ps();
  }
  for (std::int64_t b = 0; b < count; ++b) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      __m512i dots[kPanels][kTokens];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) dots[p][t] = _mm512_setzero_si512();
      }
#pragma GCC unroll 8
      for (int k = 0; k < kSteps; ++k) {
        __m512i levels[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p)
          levels[p] = load(panel[p * panel_blocks + b].levels[h * kSteps + k]);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const __m512i four = four_inputs(x + t * input.columns + 32 * b + 4 * (h * kSteps + k));
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p)
            dots[p][t] = _mm512_dpbusd_epi32(dots[p][t], levels[p], four);
        }
      }
      __m512 factors[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p)
        factors[p] = _mm512_load_ps(panel[p * panel_blocks + b].factors[h]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const __m512 scale = every(scales + t * count + b);
        const __m512 constant = every(sums + (t * count + b) * kHalves + h);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          const __m512 sum = _mm512_cvtepi32_ps(dots[p][t]);
          if constexpr (OpenBlock<Unit>::kOffsets) {
            const __m512 scaled = _mm512_mul_ps(sum, scale);
            totals[p][t] = _mm512_fmadd_ps(scaled, factors[p], totals[p][t]);
            const __m512 offset = _mm512_load_ps(panel[p * panel_blocks + b].factors[1]);
            totals[p][t] = _mm512_fmadd_ps(offset, constant, totals[p][t]);
          } else {
            const __m512 scaled = _mm512_fmadd_ps(sum, scale, constant);
            totals[p][t] = _mm512_fmadd_ps(scaled, factors[p], totals[p][t]);
          }
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      store_rows(y + t * y_stride + kPanelRows * p, totals[p][t], rows - kPanelRows * p);
  }
}

template <typename Unit, int kPanels>
void open_tokens(const OpenBlock<Unit>* panel,
                 std::int64_t panel_blocks,
                 const MatmulInput& input,
                 const float* constants,
                 std::int64_t rows,
                 float* y,
                 std::int64_t y_stride) {
  constexpr int kTokens = kPanels == 2 ? 6 : 12;
  std::int64_t t = 0;
  for (; t + kTokens <= input.tokens; t += kTokens) {
    open_tile<Unit, kPanels, kTokens>(
        panel, panel_blocks, input, constants, t, rows, y + t * y_stride, y_stride);
  }
  for (; t + 2 <= input.tokens; t += 2) {
    open_tile<Unit, kPanels, 2>(
        panel, panel_blocks, input, constants, t, rows, y + t * y_stride, y_stride);
  }
  for (; t < input.tokens; ++t) {
    open_tile<Unit, kPanels, 1>(
        panel, panel_blocks, input, constants, t, rows, y + t * y_stride, y_stride);
  }
}

template <typename Unit>
void open_panels(const PackedRows& weights,
                 const MatmulInput& input,
                 const float* constants,
                 OpenBlock<Unit>* blocks,
                 float* y,
                 std::int64_t y_stride) {
  const std::int64_t units = input.columns / Unit::kColumns;
  const std::int64_t panel_blocks = input.columns / 32;
  const auto* unit = static_cast<const Unit*>(weights.data);
  for (std::int64_t first = 0; first < weights.rows; first += 2 * kPanelRows) {
    const std::int64_t rows = weights.rows - first;
    const int panels = rows > kPanelRows ? 2 : 1;
    for (std::int64_t u = 0; u < panels * units; ++u)
      open_unit(*unit++, blocks + u * (Unit::kColumns / 32));
    if (panels == 2)
      open_tokens<Unit, 2>(blocks, panel_blocks, input, constants, rows, y + first, y_stride);
    else
      open_tokens<Unit, 1>(blocks, panel_blocks, input, constants, rows, y + first, y_stride);
  }
}

// Fewer input rows than this do not pay for unpacking.
constexpr std::int64_t kOpenTokens = 4;

template <typename Unit>
void packed_matmul(const PackedRows& weights,
                   const MatmulInput& input,
                   float* y,
                   std::int64_t y_stride) {
  const std::int64_t constant_bytes =
      (input.tokens * input.columns / kScaleColumns<Unit> * 4 + 63) / 64 * 64;
  const bool open = input.tokens >= kOpenTokens;
  const std::int64_t block_bytes =
      open ? 2 * input.columns / 32 * static_cast<std::int64_t>(sizeof(OpenBlock<Unit>)) : 0;
  auto* scratch = static_cast<std::byte*>(
      panel_scratch(static_cast<std::size_t>(constant_bytes + block_bytes)));
  const float* constants = constants_of<Unit>(input, reinterpret_cast<float*>(scratch));
  if (!open) return stream_panels<Unit>(weights, input, constants, y, y_stride);
  auto* blocks = reinterpret_cast<OpenBlock<Unit>*>(scratch + constant_bytes);
  open_panels<Unit>(weights, input, constants, blocks, y, y_stride);
}

}  // namespace

PackedMatmulFunction avx512_packed_matmul(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return packed_matmul<PackedQ8_0>;
    case GgmlType::kQ4_0:
      return packed_matmul<PackedQ4_0>;
    case GgmlType::kQ4_1:
      return packed_matmul<PackedQ4_1>;
    case GgmlType::kQ5_0:
      return packed_matmul<PackedQ5_0>;
    case GgmlType::kQ4_K:
      return packed_matmul<PackedQ4_K>;
    case GgmlType::kQ6_K:
      return packed_matmul<PackedQ6_K>;
    default:
      return nullptr;
  }
}

}  // namespace pocketvlm
