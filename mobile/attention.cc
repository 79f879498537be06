#include "mobile/attention.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

constexpr std::int64_t kQueryTile = 48;  // scores of a tile stay in the second-level cache

// [rows, columns] with `stride` floats a row -> [columns, rows].
void transpose(const float* source,
               std::int64_t stride,
               std::int64_t rows,
               std::int64_t columns,
               float* target) {
  constexpr std::int64_t kBlock = 16;
  for (std::int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    for (std::int64_t c = 0; c < columns; ++c) {
      for (std::int64_t r = r0; r < std::min(rows, r0 + kBlock); ++r)
        target[c * rows + r] = source[r * stride + c];
    }
  }
}

}  // namespace

void mobile_attention(const Compute& compute,
                      const float* q,
                      const float* k,
                      const float* v,
                      const std::vector<std::int64_t>& q_lengths,
                      const std::vector<std::int64_t>& kv_lengths,
                      std::int64_t heads,
                      std::int64_t head_dim,
                      float* out) {
  const std::int64_t width = heads * head_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  std::int64_t first_q = 0;
  std::int64_t first_kv = 0;
  for (std::size_t s = 0; s < kv_lengths.size(); ++s) {
    const std::int64_t queries = q_lengths[s];
    const std::int64_t keys = kv_lengths[s];
    if (compute.bf16_attention && compute.kernels.attend_bf16 != nullptr) {
      compute.pool.for_pieces(heads, 1, [&](std::int64_t head, std::int64_t) {
        const std::int64_t column = head * head_dim;
        compute.kernels.attend_bf16({.q = q + first_q * width + column,
                                     .k = k + first_kv * width + column,
                                     .v = v + first_kv * width + column,
                                     .out = out + first_q * width + column,
                                     .stride = width,
                                     .queries = queries,
                                     .keys = keys,
                                     .head_dim = head_dim,
                                     .scale = scale});
      });
      first_q += queries;
      first_kv += keys;
      continue;
    }
    // One head is one piece: its transposed values are made once and read by all its query tiles.
    compute.pool.for_pieces(heads, 1, [&](std::int64_t head, std::int64_t) {
      const std::int64_t column = head * head_dim;
      std::vector<float> values(static_cast<std::size_t>(head_dim * keys));
      transpose(v + first_kv * width + column, width, keys, head_dim, values.data());
      std::vector<float> scores(static_cast<std::size_t>(std::min(kQueryTile, queries) * keys));
      for (std::int64_t t0 = 0; t0 < queries; t0 += kQueryTile) {
        const std::int64_t count = std::min(kQueryTile, queries - t0);
        const std::int64_t at = (first_q + t0) * width + column;
        MatmulInput input;
        input.tokens = count;
        input.columns = head_dim;
        input.values = q + at;
        input.stride = width;
        compute.kernels.matmul_f32(
            {k + first_kv * width + column, width * 4, keys}, input, scores.data(), keys);
        for (std::int64_t t = 0; t < count; ++t)
          compute.kernels.softmax(&scores[static_cast<std::size_t>(t * keys)], keys, scale);
        input.columns = keys;
        input.values = scores.data();
        input.stride = keys;
        compute.kernels.matmul_f32({values.data(), keys * 4, head_dim}, input, out + at, width);
      }
    });
    first_q += queries;
    first_kv += keys;
  }
}

}  // namespace pocketvlm
