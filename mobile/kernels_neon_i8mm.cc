#include "mobile/neon_kernels.h"

// Compiled with dotprod and i8mm (ARMv8.6); run only where the processor has both. Single tokens
// use the dot products; batches multiply 2 rows x 8 levels with 2 inputs x 8 levels at once.
namespace pocketvlm {
namespace {

struct DotInstruction {
  static int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); }
};

constexpr int kRowPairs = 4;
constexpr int kMatrixRows = 2 * kRowPairs;
constexpr int kTokenPairs = 3;  // with four pairs of rows what the registers hold

// 32 columns of eight weight rows, with one scale for each `kHalves`th of them. Factors of a pair
// of rows lie as the lanes of its products do: row, row, next row, next row.
template <int kHalves>
struct alignas(64) MatrixBlock {
  std::int8_t levels[4][kRowPairs][2][8];
  float scale[kHalves][kRowPairs][4];
  float offset[kHalves][kRowPairs][4];
};

template <typename Block>
void put_row(const Unpacked<Block>& unpacked,
             int group,
             int row,
             MatrixBlock<kScaleHalves<Block>>& target) {
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < 8; ++i) {
      const int level = unpacked.levels[32 * group + 8 * k + i];
      // Levels of Q8_0 come with 128 added, to be taken off again.
      const int centre = sizeof(Block) == sizeof(BlockQ8_0) ? 128 : 0;
      target.levels[k][row / 2][row % 2][i] = static_cast<std::int8_t>(level - centre);
    }
  }
  for (int h = 0; h < kScaleHalves<Block>; ++h) {
    const float offset = sizeof(Block) == sizeof(BlockQ8_0) ? 0.0F : unpacked.offset[2 * group + h];
    for (int lane = 0; lane < 2; ++lane) {
      target.scale[h][row / 2][2 * (row % 2) + lane] = unpacked.scale[2 * group + h];
      target.offset[h][row / 2][2 * (row % 2) + lane] = offset;
    }
  }
}

// Rows beyond the last one repeat it; their results are not stored.
template <typename Block>
void fill_matrix(const WeightRows& weights,
                 std::int64_t first,
                 std::int64_t rows,
                 std::int64_t columns,
                 MatrixBlock<kScaleHalves<Block>>* blocks) {
  constexpr int kGroups = Block::kElements / 32;
  for (int r = 0; r < kMatrixRows; ++r) {
    const std::int64_t row = r < rows ? first + r : first + rows - 1;
    const auto* source = static_cast<const std::uint8_t*>(weights.data) + row * weights.row_bytes;
    for (std::int64_t b = 0; b < columns / Block::kElements; ++b) {
      Block block;
      __builtin_memcpy(
          &block, source + b * static_cast<std::int64_t>(sizeof(Block)), sizeof(Block));
      Unpacked<Block> unpacked;
      unpack(block, unpacked);
      for (int g = 0; g < kGroups; ++g) put_row<Block>(unpacked, g, r, blocks[b * kGroups + g]);
    }
  }
}

// a of the first token and b of the second, as the lanes of a product: a, b, a, b.
float32x4_t pair_of(float a, float b) {
  const float32x2_t pair = vset_lane_f32(b, vdup_n_f32(a), 1);
  return vcombine_f32(pair, pair);
}

// An odd last token is its own partner.
std::int64_t token_of(std::int64_t first, int pair, int which, std::int64_t tokens) {
  const std::int64_t t = first + 2 * pair + which;
  return t < tokens ? t : tokens - 1;
}

template <int kPairs>
void store_pairs(const float32x4_t (&sums)[kRowPairs][kPairs],
                 std::int64_t first,
                 std::int64_t tokens,
                 std::int64_t rows,
                 float* y,
                 std::int64_t y_stride) {
  for (int r = 0; r < kRowPairs; ++r) {
    for (int p = 0; p < kPairs; ++p) {
      float lanes[4];
      vst1q_f32(lanes, sums[r][p]);
      for (int lane = 0; lane < 4; ++lane) {
        const std::int64_t row = 2 * r + lane / 2;
        const std::int64_t t = first + 2 * p + lane % 2;
        if (row < rows && t < tokens) y[t * y_stride + row] = lanes[lane];
      }
    }
  }
}

// Blocks of eight rows, `stride` from one 32 columns to the next, times kPairs pairs of input rows.
template <int kHalves, int kPairs>
void matrix_tokens(const MatrixBlock<kHalves>* blocks,
                   std::int64_t stride,
                   const MatmulInput& input,
                   std::int64_t first,
                   std::int64_t rows,
                   float* y,
                   std::int64_t y_stride) {
  constexpr int kSteps = 4 / kHalves;
  float32x4_t sums[kRowPairs][kPairs];
  for (auto& row : sums) {
    for (float32x4_t& sum : row) sum = vdupq_n_f32(0.0F);
  }
  const std::int64_t count = input.columns / 32;
  for (std::int64_t b = 0; b < count; ++b) {
    const MatrixBlock<kHalves>& block = blocks[b * stride];
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const std::int64_t t0 = token_of(first, p, 0, input.tokens);
        const std::int64_t t1 = token_of(first, p, 1, input.tokens);
        const std::int8_t* x0 = input.quants + t0 * input.columns + 32 * b + 8 * h * kSteps;
        const std::int8_t* x1 = input.quants + t1 * input.columns + 32 * b + 8 * h * kSteps;
        int32x4_t dots[kRowPairs];
        for (int32x4_t& dot : dots) dot = vdupq_n_s32(0);
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
          const int8x16_t x = vcombine_s8(vld1_s8(x0 + 8 * k), vld1_s8(x1 + 8 * k));
#pragma GCC unroll 4
          for (int r = 0; r < kRowPairs; ++r)
            dots[r] = vmmlaq_s32(dots[r], vld1q_s8(block.levels[h * kSteps + k][r][0]), x);
        }
        const std::int64_t at0 = t0 * count + b;
        const std::int64_t at1 = t1 * count + b;
        const float32x4_t scales = pair_of(input.scales[at0], input.scales[at1]);
        const float32x4_t constants =
            kHalves == 1 ? pair_of(input.sums32[at0], input.sums32[at1])
                         : pair_of(input.sums16[2 * at0 + h], input.sums16[2 * at1 + h]);
#pragma GCC unroll 4
        for (int r = 0; r < kRowPairs; ++r) {
          const float32x4_t product = vmulq_f32(vld1q_f32(block.scale[h][r]), scales);
          sums[r][p] = vfmaq_f32(sums[r][p], vcvtq_f32_s32(dots[r]), product);
          sums[r][p] = vfmaq_f32(sums[r][p], vld1q_f32(block.offset[h][r]), constants);
        }
      }
    }
  }
  store_pairs(sums, first, input.tokens, rows, y, y_stride);
}

template <int kHalves>
void all_matrix_tokens(const MatrixBlock<kHalves>* blocks,
                       std::int64_t stride,
                       const MatmulInput& input,
                       std::int64_t rows,
                       float* y,
                       std::int64_t y_stride) {
  std::int64_t t = 0;
  for (; t + 2 * kTokenPairs <= input.tokens; t += 2 * kTokenPairs)
    matrix_tokens<kHalves, kTokenPairs>(blocks, stride, input, t, rows, y, y_stride);
  for (; t < input.tokens; t += 2)
    matrix_tokens<kHalves, 1>(blocks, stride, input, t, rows, y, y_stride);
}

template <typename Block, float (*kRowDot)(const std::uint8_t*, const MatmulInput&, std::int64_t)>
void matrix_matmul(const WeightRows& weights,
                   const MatmulInput& input,
                   float* y,
                   std::int64_t y_stride) {
  if (input.tokens < kPanelTokens)
    return quantized_matmul<Panel128<DotInstruction>, Block, kRowDot>(weights, input, y, y_stride);
  using Matrix = MatrixBlock<kScaleHalves<Block>>;
  auto* blocks = static_cast<Matrix*>(
      panel_scratch(static_cast<std::size_t>(input.columns / 32) * sizeof(Matrix)));
  for (std::int64_t first = 0; first < weights.rows; first += kMatrixRows) {
    const std::int64_t rows =
        weights.rows - first < kMatrixRows ? weights.rows - first : kMatrixRows;
    fill_matrix<Block>(weights, first, rows, input.columns, blocks);
    all_matrix_tokens(blocks, 1, input, rows, y + first, y_stride);
  }
}

// Columns 4 k .. 4 k + 3 and the next four of four rows, four each, as two pairs of rows with eight
// columns each.
void put_two_pairs(const std::uint8_t* four, const std::uint8_t* next, std::int8_t* pairs) {
  const int32x4_t a = vreinterpretq_s32_u8(vld1q_u8(four));
  const int32x4_t b = vreinterpretq_s32_u8(vld1q_u8(next));
  vst1q_s8(pairs, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
  vst1q_s8(pairs + 16, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
}

// Each of four numbers twice, those of rows that are neighbours beside each other.
void put_twice(float32x4_t values, float* pairs) {
  vst1q_f32(pairs, vzip1q_f32(values, values));
  vst1q_f32(pairs + 4, vzip2q_f32(values, values));
}

// How packed_matmul opens panels here: 16 rows are two blocks of eight.
template <typename I, typename Unit>
struct OpenMatrix {
  static constexpr int kHalves = OpenBlock<Unit>::kHalves;
  static constexpr int kPanels = 1;
  struct Block {
    MatrixBlock<kHalves> eights[2];
  };

  static void open(const Unit& unit, Block* blocks) {
    constexpr int kGroups = Unit::kColumns / 32;
    OpenBlock<Unit> opened[kGroups];
    open_unit<I>(unit, opened);
    for (int g = 0; g < kGroups; ++g) {
      for (int e = 0; e < 2; ++e) put_eight(opened[g], 8 * e, blocks[g].eights[e]);
    }
  }

  static void put_eight(const OpenBlock<Unit>& opened, int row, MatrixBlock<kHalves>& target) {
    for (int k = 0; k < 4; ++k) {
      for (int r = 0; r < 8; r += 4)
        put_two_pairs(opened.levels[2 * k][row + r],
                      opened.levels[2 * k + 1][row + r],
                      target.levels[k][r / 2][0]);
    }
    for (int h = 0; h < kHalves; ++h) {
      for (int r = 0; r < 8; r += 4) {
        const float32x4_t scale = vld1q_f32(opened.factors[h] + row + r);
        put_twice(scale, target.scale[h][r / 2]);
        if constexpr (kStoredOffset<Unit>)
          put_twice(vld1q_f32(opened.factors[1] + row + r), target.offset[h][r / 2]);
        else
          put_twice(vmulq_n_f32(scale, kPackedBias<I, Unit>), target.offset[h][r / 2]);
      }
    }
  }

  // `constants` are for tiles that keep the bias with the inputs.
  static void multiply(const Block* blocks,
                       const MatmulInput& input,
                       const float* /*constants*/,
                       std::int64_t rows,
                       float* y,
                       std::int64_t y_stride) {
    for (int e = 0; e < 2 && rows > 8 * e; ++e) {
      const std::int64_t left = rows - 8 * e < 8 ? rows - 8 * e : 8;
      all_matrix_tokens(&blocks->eights[e], 2, input, left, y + 8 * e, y_stride);
    }
  }
};

// Eight rows of a panel of PackedInt8, from `row` on, times kPairs pairs of input rows.
template <int kPairs>
void int8_matrix_tile(const PackedInt8* units,
                      int row,
                      const Int8Input& input,
                      std::int64_t first,
                      std::int64_t rows,
                      float* y,
                      std::int64_t y_stride) {
  constexpr int kColumns = PackedInt8::kColumns;
  const std::int64_t count = input.columns / kColumns;
  float32x4_t sums[kRowPairs][kPairs];
  for (auto& pairs : sums) {
    for (float32x4_t& sum : pairs) sum = vdupq_n_f32(0.0F);
  }
  for (std::int64_t u = 0; u < count; ++u) {
    const PackedInt8& unit = units[u];
    int32x4_t dots[kRowPairs][kPairs];
    for (auto& pairs : dots) {
      for (int32x4_t& dot : pairs) dot = vdupq_n_s32(0);
    }
    for (int k = 0; k < kColumns / 8; ++k) {
      int8x16_t levels[kRowPairs];
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        const uint8x16_t bias = vdupq_n_u8(128);
        const uint8x16_t a = veorq_u8(vld1q_u8(unit.q[2 * k][row + 4 * r]), bias);
        const uint8x16_t b = veorq_u8(vld1q_u8(unit.q[2 * k + 1][row + 4 * r]), bias);
        const int32x4_t low = vzip1q_s32(vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b));
        const int32x4_t high = vzip2q_s32(vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b));
        levels[2 * r] = vreinterpretq_s8_s32(low);
        levels[2 * r + 1] = vreinterpretq_s8_s32(high);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const std::int64_t at = kColumns * u + 8 * k;
        const std::int64_t t0 = token_of(first, p, 0, input.tokens);
        const std::int64_t t1 = token_of(first, p, 1, input.tokens);
        const int8x16_t x = vcombine_s8(vld1_s8(input.quants + t0 * input.columns + at),
                                        vld1_s8(input.quants + t1 * input.columns + at));
#pragma GCC unroll 4
        for (int r = 0; r < kRowPairs; ++r) dots[r][p] = vmmlaq_s32(dots[r][p], levels[r], x);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) {
      const float32x2_t two = vld1_f32(unit.scale + row + 2 * r);
      const float32x4_t factors = vcombine_f32(vdup_lane_f32(two, 0), vdup_lane_f32(two, 1));
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const std::int64_t t0 = token_of(first, p, 0, input.tokens);
        const std::int64_t t1 = token_of(first, p, 1, input.tokens);
        const float32x4_t scales =
            pair_of(input.scales[t0 * count + u], input.scales[t1 * count + u]);
        const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(dots[r][p]), scales);
        sums[r][p] = vfmaq_f32(sums[r][p], scaled, factors);
      }
    }
  }
  store_pairs(sums, first, input.tokens, rows, y, y_stride);
}

void int8_matrix_matmul(const PackedRows& weights,
                        const Int8Input& input,
                        float* y,
                        std::int64_t y_stride) {
  const auto* panels = static_cast<const PackedInt8*>(weights.data);
  const std::int64_t units = input.columns / PackedInt8::kColumns;
  for (std::int64_t first = 0; first < weights.rows; first += kMatrixRows) {
    const PackedInt8* panel = panels + first / kPanelRows * units;
    const int row = static_cast<int>(first % kPanelRows);
    const std::int64_t left = weights.rows - first;
    const std::int64_t rows = left < kMatrixRows ? left : kMatrixRows;
    std::int64_t t = 0;
    for (; t + 2 * kTokenPairs <= input.tokens; t += 2 * kTokenPairs)
      int8_matrix_tile<kTokenPairs>(panel, row, input, t, rows, y + first, y_stride);
    for (; t < input.tokens; t += 2)
      int8_matrix_tile<1>(panel, row, input, t, rows, y + first, y_stride);
  }
}

constexpr Kernels i8mm_table() {
  using D = DotInstruction;
  Kernels table = neon_table<D>("neon_i8mm");
  table.matmul_q8_0 = matrix_matmul<BlockQ8_0, dot_blocks<D, BlockQ8_0>>;
  table.matmul_q4_0 = matrix_matmul<BlockQ4_0, dot_blocks<D, BlockQ4_0>>;
  table.matmul_q4_1 = matrix_matmul<BlockQ4_1, dot_blocks<D, BlockQ4_1>>;
  table.matmul_q5_0 = matrix_matmul<BlockQ5_0, dot_blocks<D, BlockQ5_0>>;
  table.matmul_q5_1 = matrix_matmul<BlockQ5_1, dot_blocks<D, BlockQ5_1>>;
  table.matmul_q4_k = matrix_matmul<BlockQ4_K, dot_affine<D, BlockQ4_K>>;
  table.matmul_q5_k = matrix_matmul<BlockQ5_K, dot_affine<D, BlockQ5_K>>;
  table.matmul_q6_k = matrix_matmul<BlockQ6_K, dot_q6_k<D>>;
  table.packed_matmul = packed_matmul_of<Packed128<D>, OpenMatrix>;
  table.matmul_int8 = int8_matrix_matmul;
  return table;
}

}  // namespace

const Kernels& neon_i8mm_kernels() {
  static constexpr Kernels kTable = i8mm_table();
  return kTable;
}

}  // namespace pocketvlm
