#pragma once

#include <cstddef>
#include <cstdint>

#include "mobile/kernels_simd.h"
#include "mobile/packed_formats.h"

/// Products with packed weights, written once over an instruction set I. Single tokens read the
/// panels as they stream from memory; many tokens meet panels whose levels were unpacked to bytes
/// once. I defines, for the 16 rows of a panel:
///   Bytes (four levels of each row), Ints, Floats (one number of each row)
///   load, store (whole cache lines of Bytes), low_nibbles, high_nibbles, fifth_bits(bytes, bits),
///   q8_levels(bytes) and kQ8Bias (what is left to subtract from them), q6_levels<quarter>(ql, qh)
///   dot(sum, bytes, four inputs), zero_ints, add_ints, to_floats
///   zero, every(pointer to one float), load_floats, store_floats, store_rows(y, values, rows),
///   halves, signed_bytes (16 numbers of the format as floats), pair(scales of Q4_K, sub-block)
///   add, sub, mul, fma(a, b, c) = a b + c, fnma(a, b, c) = c - a b, prefetch(line)
///   kStreams, panels that are read side by side in the first kind of product
///   kPanels and kTokens of a tile of the second kind that fit its registers
/// Included by files with different instruction sets, hence internal linkage.
namespace pocketvlm {
namespace {

// What subtracting a constant from all levels of a type takes away, in sums of inputs.
template <typename I, typename Unit>
constexpr float kPackedBias = 0.0F;
template <typename I>
constexpr float kPackedBias<I, PackedQ8_0> = I::kQ8Bias;
template <typename I>
constexpr float kPackedBias<I, PackedQ4_0> = -8.0F;
template <typename I>
constexpr float kPackedBias<I, PackedQ5_0> = -16.0F;
template <typename I>
constexpr float kPackedBias<I, PackedQ6_K> = -32.0F;

// Types with a stored offset have no bias; Q8_0 may have neither.
template <typename Unit>
constexpr bool kStoredOffset = false;
template <>
constexpr bool kStoredOffset<PackedQ4_1> = true;
template <>
constexpr bool kStoredOffset<PackedQ4_K> = true;

// 4 and 5 bits in blocks of 32.
template <typename Unit>
concept NibbleUnit = requires(Unit unit) {
  unit.qs;
  requires Unit::kColumns == 64;
};

// Sums of inputs that belong to one scale: 16 of them for Q6_K, else 32.
template <typename Unit>
constexpr int kScaleColumns = 32;
template <>
constexpr int kScaleColumns<PackedQ6_K> = 16;

// One input row. `constants` holds the scaled sums of 32 (Q6_K: 16) inputs, times the bias of the
// weight type where it has one.
struct InputRow {
  const std::int8_t* quants;
  const float* scales;
  const float* constants;
};

// A unit is added in parts, and several panels take turns with theirs: more of memory is under way
// than one run of addresses brings. Large units have parts because the reads of a whole one, asked
// for at once, would hold up those that are waited for.
template <typename Unit>
constexpr int kParts = Unit::kColumns == 256 ? 4 : 1;

template <typename I, typename Unit, int kPart>
inline void prefetch_part(const Unit& unit) {
  // Of the multiplication; what all panels have under way must fit the first-level cache.
  constexpr int kAhead = kParts<Unit> == 1 ? 2048 : 2048 / I::kStreams;
  constexpr int kBytes = static_cast<int>(sizeof(Unit));
  constexpr int kPartBytes = (kBytes / kParts<Unit> + 63) / 64 * 64;
  constexpr int kEnd = kPart + 1 == kParts<Unit> ? kBytes : (kPart + 1) * kPartBytes;
  const auto* next = reinterpret_cast<const char*>(&unit) + kAhead;
#pragma GCC unroll 64
  for (int at = kPart * kPartBytes; at < kEnd; at += 64) I::prefetch(next + at);
}

// The product of a panel with one input row, while its units are added.
template <typename I>
struct PanelSum {
  typename I::Floats total;
  // Of one unit, before its own scales: Q4_K and Q6_K.
  typename I::Floats scaled;
  typename I::Floats lowered;
};

template <typename I, int kPart>
inline void add_part(const PackedQ8_0& unit, const InputRow& x, int c, PanelSum<I>& panel) {
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    auto even = I::zero_ints();
    auto odd = I::zero_ints();
#pragma GCC unroll 4
    for (int v = 0; v < 8; v += 2) {
      const std::int8_t* inputs = x.quants + 32 * (c + j) + 4 * v;
      even = I::dot(even, I::q8_levels(I::load(unit.q[j][v])), inputs);
      odd = I::dot(odd, I::q8_levels(I::load(unit.q[j][v + 1])), inputs + 4);
    }
    const auto sum = I::to_floats(I::add_ints(even, odd));
    const auto scaled = I::fma(sum, I::every(x.scales + c + j), I::every(x.constants + c + j));
    panel.total = I::fma(scaled, I::halves(unit.d[j]), panel.total);
  }
}

// Sixteen of 32 columns in the low nibbles, the others in the high ones, four columns v of each.
template <typename I>
struct NibbleLevels {
  typename I::Bytes low;
  typename I::Bytes high;
};

template <typename I, NibbleUnit Unit>
inline NibbleLevels<I> nibble_levels(const Unit& unit, int j, int v) {
  const auto packed = I::load(unit.qs[j][v]);
  NibbleLevels<I> levels = {I::low_nibbles(packed), I::high_nibbles(packed)};
  if constexpr (requires { unit.qh; }) {
    levels.low = I::fifth_bits(levels.low, unit.qh[j][v]);
    levels.high = I::fifth_bits(levels.high, unit.qh[j][v + 4]);
  }
  return levels;
}

template <typename I, int kPart, NibbleUnit Unit>
inline void add_part(const Unit& unit, const InputRow& x, int c, PanelSum<I>& panel) {
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    auto first = I::zero_ints();
    auto second = I::zero_ints();
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const NibbleLevels<I> levels = nibble_levels<I>(unit, j, v);
      first = I::dot(first, levels.low, x.quants + 32 * (c + j) + 4 * v);
      second = I::dot(second, levels.high, x.quants + 32 * (c + j) + 16 + 4 * v);
    }
    const auto sum = I::to_floats(I::add_ints(first, second));
    if constexpr (kStoredOffset<Unit>) {
      const auto scaled = I::mul(sum, I::every(x.scales + c + j));
      panel.total = I::fma(scaled, I::halves(unit.d[j]), panel.total);
      panel.total = I::fma(I::halves(unit.m[j]), I::every(x.constants + c + j), panel.total);
    } else {
      const auto scaled = I::fma(sum, I::every(x.scales + c + j), I::every(x.constants + c + j));
      panel.total = I::fma(scaled, I::halves(unit.d[j]), panel.total);
    }
  }
}

template <typename I, int kPart>
inline void add_part(const PackedQ4_K& unit, const InputRow& x, int c, PanelSum<I>& panel) {
  if constexpr (kPart == 0) panel.scaled = panel.lowered = I::zero();
  constexpr int g = kPart;
  const std::int8_t* inputs = x.quants + 32 * (c + 2 * g);
  typename I::Ints dots[2] = {I::zero_ints(), I::zero_ints()};
#pragma GCC unroll 8
  for (int v = 0; v < 8; ++v) {
    const auto packed = I::load(unit.qs[g][v]);
    dots[0] = I::dot(dots[0], I::low_nibbles(packed), inputs + 4 * v);
    dots[1] = I::dot(dots[1], I::high_nibbles(packed), inputs + 32 + 4 * v);
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int j = 2 * g + h;
    const auto pair = I::pair(unit.scales, j);
    const auto factor = I::mul(pair.scales, I::every(x.scales + c + j));
    panel.scaled = I::fma(I::to_floats(dots[h]), factor, panel.scaled);
    panel.lowered = I::fma(pair.mins, I::every(x.constants + c + j), panel.lowered);
  }
  if constexpr (kPart + 1 == kParts<PackedQ4_K>) {
    panel.total = I::fma(panel.scaled, I::halves(unit.d), panel.total);
    panel.total = I::fnma(panel.lowered, I::halves(unit.dmin), panel.total);
  }
}

// Levels of quarter k (32 columns) of a half of a Q6_K unit, four columns v.
template <typename I, int k>
inline typename I::Bytes q6_levels(const PackedQ6_K& unit, int half, int v) {
  return I::template q6_levels<k>(I::load(unit.ql[half][k % 2 == 0 ? v : v + 8]),
                                  I::load(unit.qh[half][v]));
}

// 16 of the 32 columns of each quarter of a half.
template <typename I, int kPart>
inline void add_part(const PackedQ6_K& unit, const InputRow& x, int c, PanelSum<I>& panel) {
  if constexpr (kPart == 0) panel.scaled = I::zero();
  constexpr int half = kPart / 2;
  constexpr int sixteen = kPart % 2;
  const std::int8_t* inputs = x.quants + 32 * (c + 4 * half) + 16 * sixteen;
  typename I::Ints dots[4] = {I::zero_ints(), I::zero_ints(), I::zero_ints(), I::zero_ints()};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int v = 4 * sixteen + i;
    dots[0] = I::dot(dots[0], q6_levels<I, 0>(unit, half, v), inputs + 4 * i);
    dots[1] = I::dot(dots[1], q6_levels<I, 1>(unit, half, v), inputs + 32 + 4 * i);
    dots[2] = I::dot(dots[2], q6_levels<I, 2>(unit, half, v), inputs + 64 + 4 * i);
    dots[3] = I::dot(dots[3], q6_levels<I, 3>(unit, half, v), inputs + 96 + 4 * i);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const int at = 4 * half + k;  // of the 32 columns
    const int sub = 2 * at + sixteen;
    const auto factor = I::signed_bytes(unit.scales[sub]);
    const auto part_sum = I::fma(
        I::to_floats(dots[k]), I::every(x.scales + c + at), I::every(x.constants + 2 * c + sub));
    panel.scaled = I::fma(part_sum, factor, panel.scaled);
  }
  if constexpr (kPart + 1 == kParts<PackedQ6_K>)
    panel.total = I::fma(panel.scaled, I::halves(unit.d), panel.total);
}

// The sums times the bias, for `tokens` input rows.
template <typename I, typename Unit>
const float* constants_of(const MatmulInput& input, float* scratch) {
  const float* sums = kScaleColumns<Unit> == 16 ? input.sums16 : input.sums32;
  if (kStoredOffset<Unit>) return sums;
  constexpr float kBias = kPackedBias<I, Unit>;
  const std::int64_t count = input.tokens * input.columns / kScaleColumns<Unit>;
  for (std::int64_t i = 0; i < count; ++i) scratch[i] = kBias == 0.0F ? 0.0F : sums[i] * kBias;
  return scratch;
}

template <typename I, typename Unit, int kStreams, int kPart = 0>
inline void add_units(const Unit* unit,
                      std::int64_t distance,
                      const InputRow& x,
                      int c,
                      PanelSum<I> (&panels)[kStreams]) {
  if constexpr (kPart < kParts<Unit>) {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) {
      prefetch_part<I, Unit, kPart>(unit[s * distance]);
      add_part<I, kPart>(unit[s * distance], x, c, panels[s]);
    }
    add_units<I, Unit, kStreams, kPart + 1>(unit, distance, x, c, panels);
  }
}

// Panels [first, end) of the weights, each of kStreams equal runs of them read in one go; what does
// not divide is read as fewer runs.
template <typename I, typename Unit, int kStreams = I::kStreams>
void stream_panels(const PackedRows& weights,
                   const MatmulInput& input,
                   const float* constants,
                   float* y,
                   std::int64_t y_stride,
                   std::int64_t first = 0) {
  const std::int64_t units = input.columns / Unit::kColumns;
  constexpr int kGroups = Unit::kColumns / 32;
  const std::int64_t end = (weights.rows + kPanelRows - 1) / kPanelRows;
  const std::int64_t run = (end - first) / kStreams;
  for (const std::int64_t stop = first + run; first < stop; ++first) {
    const Unit* unit = static_cast<const Unit*>(weights.data) + first * units;
    for (std::int64_t t = 0; t < input.tokens; ++t) {
      const InputRow x = {input.quants + t * input.columns,
                          input.scales + t * input.columns / 32,
                          constants + t * input.columns / kScaleColumns<Unit>};
      PanelSum<I> panels[kStreams];
#pragma GCC unroll 4
      for (PanelSum<I>& panel : panels) panel.total = I::zero();
      for (std::int64_t u = 0; u < units; ++u) {
        add_units<I, Unit, kStreams>(
            unit + u, run * units, x, static_cast<int>(u) * kGroups, panels);
      }
#pragma GCC unroll 4
      for (int s = 0; s < kStreams; ++s) {
        const std::int64_t row = (first + s * run) * kPanelRows;
        I::store_rows(y + t * y_stride + row, panels[s].total, weights.rows - row);
      }
    }
  }
  if constexpr (kStreams > 1)
    stream_panels<I, Unit, kStreams / 2>(
        weights, input, constants, y, y_stride, first + (kStreams - 1) * run);
}

// 32 columns of a panel with their levels as bytes.
template <typename Unit>
struct alignas(64) OpenBlock {
  static constexpr int kHalves = 32 / kScaleColumns<Unit>;
  std::uint8_t levels[8][kPanelRows][4];
  float factors[kHalves + (kStoredOffset<Unit> ? 1 : 0)][16];  // scales, then the offset
};

template <typename I>
inline void open_unit(const PackedQ8_0& unit, OpenBlock<PackedQ8_0>* blocks) {
  for (int j = 0; j < 2; ++j) {
    for (int v = 0; v < 8; ++v) I::store(blocks[j].levels[v], I::q8_levels(I::load(unit.q[j][v])));
    I::store_floats(blocks[j].factors[0], I::halves(unit.d[j]));
  }
}

template <typename I, NibbleUnit Unit>
inline void open_unit(const Unit& unit, OpenBlock<Unit>* blocks) {
  for (int j = 0; j < 2; ++j) {
    for (int v = 0; v < 4; ++v) {
      const NibbleLevels<I> levels = nibble_levels<I>(unit, j, v);
      I::store(blocks[j].levels[v], levels.low);
      I::store(blocks[j].levels[v + 4], levels.high);
    }
    I::store_floats(blocks[j].factors[0], I::halves(unit.d[j]));
    if constexpr (kStoredOffset<Unit>) I::store_floats(blocks[j].factors[1], I::halves(unit.m[j]));
  }
}

template <typename I>
inline void open_unit(const PackedQ4_K& unit, OpenBlock<PackedQ4_K>* blocks) {
  const auto d = I::halves(unit.d);
  const auto dmin = I::sub(I::zero(), I::halves(unit.dmin));
  for (int j = 0; j < 8; ++j) {
    OpenBlock<PackedQ4_K>& block = blocks[j];
    for (int v = 0; v < 8; ++v) {
      const auto packed = I::load(unit.qs[j / 2][v]);
      I::store(block.levels[v], j % 2 == 0 ? I::low_nibbles(packed) : I::high_nibbles(packed));
    }
    const auto pair = I::pair(unit.scales, j);
    I::store_floats(block.factors[0], I::mul(d, pair.scales));
    I::store_floats(block.factors[1], I::mul(dmin, pair.mins));
  }
}

template <typename I>
inline void open_unit(const PackedQ6_K& unit, OpenBlock<PackedQ6_K>* blocks) {
  const auto d = I::halves(unit.d);
  for (int half = 0; half < 2; ++half) {
    OpenBlock<PackedQ6_K>* four = blocks + 4 * half;
    for (int v = 0; v < 8; ++v) {
      I::store(four[0].levels[v], q6_levels<I, 0>(unit, half, v));
      I::store(four[1].levels[v], q6_levels<I, 1>(unit, half, v));
      I::store(four[2].levels[v], q6_levels<I, 2>(unit, half, v));
      I::store(four[3].levels[v], q6_levels<I, 3>(unit, half, v));
    }
  }
  for (int sub = 0; sub < 16; ++sub)
    I::store_floats(blocks[sub / 2].factors[sub % 2], I::mul(d, I::signed_bytes(unit.scales[sub])));
}

// kPanels panels times kTokens input rows. `blocks` of the second panel follow `panel_blocks`
// after those of the first.
template <typename I, typename Unit, int kPanels, int kTokens>
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
  typename I::Floats totals[kPanels][kTokens];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) totals[p][t] = I::zero();
  }
  for (std::int64_t b = 0; b < count; ++b) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      typename I::Ints dots[kPanels][kTokens];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) dots[p][t] = I::zero_ints();
      }
#pragma GCC unroll 8
      for (int k = 0; k < kSteps; ++k) {
        typename I::Bytes levels[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p)
          levels[p] = I::load(panel[p * panel_blocks + b].levels[h * kSteps + k]);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const std::int8_t* four = x + t * input.columns + 32 * b + 4 * (h * kSteps + k);
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p) dots[p][t] = I::dot(dots[p][t], levels[p], four);
        }
      }
      typename I::Floats factors[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p)
        factors[p] = I::load_floats(panel[p * panel_blocks + b].factors[h]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const auto scale = I::every(scales + t * count + b);
        const auto constant = I::every(sums + (t * count + b) * kHalves + h);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          const auto sum = I::to_floats(dots[p][t]);
          if constexpr (kStoredOffset<Unit>) {
            const auto scaled = I::mul(sum, scale);
            totals[p][t] = I::fma(scaled, factors[p], totals[p][t]);
            const auto offset = I::load_floats(panel[p * panel_blocks + b].factors[1]);
            totals[p][t] = I::fma(offset, constant, totals[p][t]);
          } else {
            const auto scaled = I::fma(sum, scale, constant);
            totals[p][t] = I::fma(scaled, factors[p], totals[p][t]);
          }
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      I::store_rows(y + t * y_stride + kPanelRows * p, totals[p][t], rows - kPanelRows * p);
  }
}

template <typename I, typename Unit, int kPanels>
void open_tokens(const OpenBlock<Unit>* panel,
                 std::int64_t panel_blocks,
                 const MatmulInput& input,
                 const float* constants,
                 std::int64_t rows,
                 float* y,
                 std::int64_t y_stride) {
  constexpr int kTokens = kPanels == 2 ? I::kTokens : I::kPanels * I::kTokens;
  std::int64_t t = 0;
  for (; t + kTokens <= input.tokens; t += kTokens) {
    open_tile<I, Unit, kPanels, kTokens>(
        panel, panel_blocks, input, constants, t, rows, y + t * y_stride, y_stride);
  }
  for (; t + 2 <= input.tokens; t += 2) {
    open_tile<I, Unit, kPanels, 2>(
        panel, panel_blocks, input, constants, t, rows, y + t * y_stride, y_stride);
  }
  for (; t < input.tokens; ++t) {
    open_tile<I, Unit, kPanels, 1>(
        panel, panel_blocks, input, constants, t, rows, y + t * y_stride, y_stride);
  }
}

/// Products of many input rows: how an instruction set without one of its own opens panels.
template <typename I, typename Unit>
struct OpenPanels {
  using Block = OpenBlock<Unit>;
  static constexpr int kPanels = I::kPanels;

  static void open(const Unit& unit, Block* blocks) { open_unit<I>(unit, blocks); }

  static void multiply(const Block* blocks,
                       const MatmulInput& input,
                       const float* constants,
                       std::int64_t rows,
                       float* y,
                       std::int64_t y_stride) {
    const std::int64_t panel_blocks = input.columns / 32;
    if (I::kPanels == 2 && rows > kPanelRows)
      open_tokens<I, Unit, I::kPanels>(blocks, panel_blocks, input, constants, rows, y, y_stride);
    else
      open_tokens<I, Unit, 1>(blocks, panel_blocks, input, constants, rows, y, y_stride);
  }
};

// Fewer input rows than this do not pay for unpacking.
constexpr std::int64_t kOpenTokens = 4;

/// `Open` as OpenPanels above.
template <typename I, typename Unit, template <typename, typename> typename Open>
void packed_matmul(const PackedRows& weights,
                   const MatmulInput& input,
                   float* y,
                   std::int64_t y_stride) {
  using Opened = Open<I, Unit>;
  using Block = typename Opened::Block;
  const std::int64_t constant_bytes =
      (input.tokens * input.columns / kScaleColumns<Unit> * 4 + 63) / 64 * 64;
  const bool open = input.tokens >= kOpenTokens;
  const std::int64_t panel_blocks = input.columns / 32;
  const std::int64_t block_bytes =
      open ? Opened::kPanels * panel_blocks * static_cast<std::int64_t>(sizeof(Block)) : 0;
  auto* scratch = static_cast<std::byte*>(
      panel_scratch(static_cast<std::size_t>(constant_bytes + block_bytes)));
  const float* constants = constants_of<I, Unit>(input, reinterpret_cast<float*>(scratch));
  if (!open) return stream_panels<I, Unit>(weights, input, constants, y, y_stride);
  auto* blocks = reinterpret_cast<Block*>(scratch + constant_bytes);
  const std::int64_t units = input.columns / Unit::kColumns;
  const auto* unit = static_cast<const Unit*>(weights.data);
  for (std::int64_t first = 0; first < weights.rows; first += Opened::kPanels * kPanelRows) {
    const std::int64_t rows = weights.rows - first;
    const int panels = rows > kPanelRows ? Opened::kPanels : 1;
    for (std::int64_t u = 0; u < panels * units; ++u)
      Opened::open(*unit++, blocks + u * (Unit::kColumns / 32));
    Opened::multiply(blocks, input, constants, rows, y + first, y_stride);
  }
}

template <typename I, template <typename, typename> typename Open = OpenPanels>
PackedMatmulFunction packed_matmul_of(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return packed_matmul<I, PackedQ8_0, Open>;
    case GgmlType::kQ4_0:
      return packed_matmul<I, PackedQ4_0, Open>;
    case GgmlType::kQ4_1:
      return packed_matmul<I, PackedQ4_1, Open>;
    case GgmlType::kQ5_0:
      return packed_matmul<I, PackedQ5_0, Open>;
    case GgmlType::kQ4_K:
      return packed_matmul<I, PackedQ4_K, Open>;
    case GgmlType::kQ6_K:
      return packed_matmul<I, PackedQ6_K, Open>;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace pocketvlm
