#include <cstring>

#include "mobile/block_formats.h"
#include "mobile/pairs512.h"
#include "mobile/prompt_tiles.h"
#include "mobile/transpose512.h"

// The same with weights as they lie in their file. Compiled as prompt_tiles.h says: nothing with external linkage but the function of
// kernels_simd.h.
namespace pocketvlm {
namespace {

// 32 columns of a row from `column` on, rounded to bfloat16; `left` of them are there.
struct F32Row {
  static __m512i read(const void* row, std::int64_t column, std::int64_t left) {
    const float* at = static_cast<const float*>(row) + column;
    return pairs_of(_mm512_maskz_loadu_ps(first_lanes(left), at), _mm512_maskz_loadu_ps(first_lanes(left - 16), at + 16));
  }
};

struct F16Row {
  static __m512i read(const void* row, std::int64_t column, std::int64_t left) {
    const auto* at = static_cast<const std::uint16_t*>(row) + column;
    return pairs_of(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(left), at)),
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(left - 16), at + 16)));
  }
};

struct Bf16Row {
  static __m512i read(const void* row, std::int64_t column, std::int64_t left) {
    const auto* at = static_cast<const std::uint16_t*>(row) + column;
    const __mmask32 there = first_lanes(left) | static_cast<__mmask32>(first_lanes(left - 16)) << 16;
    return _mm512_maskz_loadu_epi16(there, at);
  }
};

struct Q8_0Row {
  static __m512i read(const void* row, std::int64_t column, std::int64_t /*left*/) {
    const BlockQ8_0& block = static_cast<const BlockQ8_0*>(row)[column / BlockQ8_0::kElements];
    const __m512 scale = _mm512_set1_ps(_cvtsh_ss(block.d));
    const auto half = [&](const std::int8_t* q) {
      return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)))), scale);
    };
    return pairs_of(half(block.q), half(block.q + 16));
  }
};

template <typename Row>
struct RowPanels {
  static constexpr std::int64_t kBlocks = 1;

  const std::byte* data;
  std::int64_t row_bytes;
  std::int64_t rows;
  std::int64_t columns;

  void open(std::int64_t panel, std::int64_t block, Tile* tiles) const {
    __m512i lines[kPanelRows];
    for (std::int64_t r = 0; r < kPanelRows; ++r) {
      const std::int64_t row = panel * kPanelRows + r;
      lines[r] = row < rows ? Row::read(data + row * row_bytes, block * kColumns, columns - block * kColumns) : _mm512_setzero_si512();
    }
    transpose(lines);
    for (int k = 0; k < kTileRows; ++k) _mm512_store_si512(tiles[0][k], lines[k]);
  }
};

template <typename Row>
void prompt_matmul_rows(const WeightRows& weights, const PromptInput& input, float* y, std::int64_t y_stride) {
  const RowPanels<Row> panels = {static_cast<const std::byte*>(weights.data), weights.row_bytes, weights.rows, input.columns};
  multiply_prompt(panels, weights.rows, input, y, y_stride);
}

}  // namespace

PromptRowsFunction amx_prompt_matmul_rows(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return prompt_matmul_rows<F32Row>;
    case GgmlType::kF16:
      return prompt_matmul_rows<F16Row>;
    case GgmlType::kBF16:
      return prompt_matmul_rows<Bf16Row>;
    case GgmlType::kQ8_0:
      return prompt_matmul_rows<Q8_0Row>;
    default:
      return nullptr;
  }
}

}  // namespace pocketvlm
