#include "mobile/packed_kernels.h"
#include "mobile/pairs512.h"
#include "mobile/prompt_tiles.h"

// Prompts with packed weights. Compiled as prompt_tiles.h says: nothing with external linkage but the functions of kernels_simd.h.
namespace pocketvlm {
namespace {

// Sixteen first numbers, then sixteen second ones: two side by side.
alignas(64) constexpr struct {
  std::uint16_t at[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
} kSideBySide;

// Weights of one unit of a panel.
template <typename Unit>
void open_tiles(const Unit& unit, Tile* tiles) {
  constexpr int kBlocks = Unit::kColumns / kColumns;
  constexpr int kHalves = OpenBlock<Unit>::kHalves;
  OpenBlock<Unit> blocks[kBlocks];
  open_unit<Packed512>(unit, blocks);
  const __m512i bias = _mm512_set1_epi8(static_cast<char>(kPackedBias<Packed512, Unit>));
  const __m512i order = _mm512_load_si512(&kSideBySide);
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      // Four levels of each row, without their bias signed bytes.
      const __m512i levels = _mm512_add_epi8(_mm512_load_si512(blocks[b].levels[v]), bias);
      const __m512 scale = _mm512_load_ps(blocks[b].factors[v * kHalves / 8]);
      const auto value = [&](__m512i level) {
        const __m512 number = _mm512_cvtepi32_ps(level);
        if constexpr (kStoredOffset<Unit>) {
          return _mm512_fmadd_ps(number, scale, _mm512_load_ps(blocks[b].factors[1]));
        } else {
          return _mm512_mul_ps(number, scale);
        }
      };
      const __m512i first = pairs_of(value(_mm512_srai_epi32(_mm512_slli_epi32(levels, 24), 24)),
                                     value(_mm512_srai_epi32(_mm512_slli_epi32(levels, 16), 24)));
      const __m512i second = pairs_of(value(_mm512_srai_epi32(_mm512_slli_epi32(levels, 8), 24)),
                                      value(_mm512_srai_epi32(levels, 24)));
      _mm512_store_si512(tiles[b][2 * v], _mm512_permutexvar_epi16(order, first));
      _mm512_store_si512(tiles[b][2 * v + 1], _mm512_permutexvar_epi16(order, second));
    }
  }
}

template <typename Unit>
struct PackedPanels {
  static constexpr std::int64_t kBlocks = Unit::kColumns / kColumns;

  const Unit* units;
  std::int64_t in_panel;

  void open(std::int64_t panel, std::int64_t block, Tile* tiles) const { open_tiles(units[panel * in_panel + block / kBlocks], tiles); }
};

template <typename Unit>
void prompt_matmul(const PackedRows& weights, const PromptInput& input, float* y, std::int64_t y_stride) {
  const PackedPanels<Unit> panels = {static_cast<const Unit*>(weights.data), input.columns / Unit::kColumns};
  multiply_prompt(panels, weights.rows, input, y, y_stride);
}

}  // namespace

std::int64_t amx_prompt_bytes(std::int64_t tokens, std::int64_t columns) {
  return groups_of(tokens) * blocks_of(columns) * static_cast<std::int64_t>(sizeof(Tile));
}

// Rows of the last group that no token has stay as they are: what becomes of them is not stored.
void amx_pack_prompt(const float* values,
                     std::int64_t first,
                     std::int64_t count,
                     std::int64_t token,
                     const PromptInput& shape,
                     void* tiles) {
  const std::int64_t groups = groups_of(shape.tokens);
  const std::int64_t blocks = blocks_of(shape.columns);
  for (std::int64_t b = first / kColumns; b * kColumns < first + count; ++b, values += kColumns) {
    Tile& tile = static_cast<Tile*>(tiles)[tile_at(b / kChunk, token / kTileRows, groups, blocks) + b % kChunk];
    const std::int64_t left = shape.columns - b * kColumns;
    _mm512_store_si512(tile[token % kTileRows],
                       pairs_of(_mm512_maskz_loadu_ps(first_lanes(left), values),
                                _mm512_maskz_loadu_ps(first_lanes(left - 16), values + 16)));
  }
}

PromptMatmulFunction amx_prompt_matmul(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return prompt_matmul<PackedQ8_0>;
    case GgmlType::kQ4_0:
      return prompt_matmul<PackedQ4_0>;
    case GgmlType::kQ4_1:
      return prompt_matmul<PackedQ4_1>;
    case GgmlType::kQ5_0:
      return prompt_matmul<PackedQ5_0>;
    case GgmlType::kQ4_K:
      return prompt_matmul<PackedQ4_K>;
    case GgmlType::kQ6_K:
      return prompt_matmul<PackedQ6_K>;
    default:
      return nullptr;
  }
}

}  // namespace pocketvlm
