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

// 32 columns of eight weight rows. Factors of a pair of rows lie as the lanes of its products do:
// row, row, next row, next row.
template <typename Block>
struct alignas(64) MatrixBlock {
  std::int8_t levels[4][kRowPairs][2][8];
  float scale[kScaleHalves<Block>][kRowPairs][4];
  float offset[kScaleHalves<Block>][kRowPairs][4];
};

template <typename Block>
void put_row(const Unpacked<Block>& unpacked, int group, int row, MatrixBlock<Block>& target) {
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
                 MatrixBlock<Block>* blocks) {
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
      for (int g = 0; g < kGroups; ++g) put_row(unpacked, g, r, blocks[b * kGroups + g]);
    }
  }
}

// a of the first token and b of the second, as the lanes of a product: a, b, a, b.
float32x4_t pair_of(float a, float b) {
  const float lanes[4] = {a, b, a, b};
  return vld1q_f32(lanes);
}

// kPairs pairs of input rows; `tokens` of them count.
template <typename Block, int kPairs>
void matrix_tokens(const MatrixBlock<Block>* blocks,
                   const MatmulInput& input,
                   std::int64_t first,
                   std::int64_t rows,
                   float* y,
                   std::int64_t y_stride) {
  constexpr int kHalves = kScaleHalves<Block>;
  constexpr int kSteps = 4 / kHalves;
  float32x4_t sums[kRowPairs][kPairs];
  for (auto& row : sums) {
    for (float32x4_t& sum : row) sum = vdupq_n_f32(0.0F);
  }
  const std::int64_t count = input.columns / 32;
  // An odd last token is its own partner.
  const auto token = [&](int pair, int which) {
    const std::int64_t t = first + 2 * pair + which;
    return t < input.tokens ? t : input.tokens - 1;
  };
  for (std::int64_t b = 0; b < count; ++b) {
    const MatrixBlock<Block>& block = blocks[b];
    for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const std::int64_t t0 = token(p, 0);
        const std::int64_t t1 = token(p, 1);
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
  for (int r = 0; r < kRowPairs; ++r) {
    for (int p = 0; p < kPairs; ++p) {
      float lanes[4];
      vst1q_f32(lanes, sums[r][p]);
      for (int lane = 0; lane < 4; ++lane) {
        const std::int64_t row = 2 * r + lane / 2;
        const std::int64_t t = first + 2 * p + lane % 2;
        if (row < rows && t < input.tokens) y[t * y_stride + row] = lanes[lane];
      }
    }
  }
}

template <typename Block, float (*kRowDot)(const std::uint8_t*, const MatmulInput&, std::int64_t)>
void matrix_matmul(const WeightRows& weights,
                   const MatmulInput& input,
                   float* y,
                   std::int64_t y_stride) {
  if (input.tokens < kPanelTokens)
    return quantized_matmul<Panel128<DotInstruction>, Block, kRowDot>(weights, input, y, y_stride);
  constexpr int kPairs = 3;  // with four pairs of rows what the registers hold
  auto* blocks = static_cast<MatrixBlock<Block>*>(
      panel_scratch(static_cast<std::size_t>(input.columns / 32) * sizeof(MatrixBlock<Block>)));
  for (std::int64_t first = 0; first < weights.rows; first += kMatrixRows) {
    const std::int64_t rows =
        weights.rows - first < kMatrixRows ? weights.rows - first : kMatrixRows;
    fill_matrix<Block>(weights, first, rows, input.columns, blocks);
    std::int64_t t = 0;
    for (; t + 2 * kPairs <= input.tokens; t += 2 * kPairs)
      matrix_tokens<Block, kPairs>(blocks, input, t, rows, y + first, y_stride);
    for (; t < input.tokens; t += 2)
      matrix_tokens<Block, 1>(blocks, input, t, rows, y + first, y_stride);
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
  return table;
}

}  // namespace

const Kernels& neon_i8mm_kernels() {
  static constexpr Kernels kTable = i8mm_table();
  return kTable;
}

}  // namespace pocketvlm
