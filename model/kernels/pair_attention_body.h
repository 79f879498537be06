#pragma once

#include <immintrin.h>

#include "model/kernels/table_body.h"

/// Attention of bfloat16 by products of bfloat16 pairs, for processors that have them: inputs, attention weights and slopes
/// of scores enter products as bfloat16, as in FlashAttention; scores, softmax and all sums are float32.
namespace pocketvlm::kernels {
namespace {

/// Rows, columns and depths are padded to the sizes of a tile.
constexpr int64_t kPairRows = 16;
constexpr int64_t kPairDepth = 32;
constexpr int64_t kPairGroup = 32;  // queries whose products see the same keys
static_assert(kQueryBlock % kPairGroup == 0 && kLanes == kPairRows);

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/// C [rows, columns] = A B, or += A B. A is row-major [rows, depth]; B holds pairs of neighbours along the depth,
/// [depth / 2][columns][2]; columns and rows are multiples of kPairRows, the depth of kPairDepth. Strides count elements of the
/// pointer.
struct PairProduct {
  const std::uint16_t* a;
  int64_t a_row;
  const std::uint32_t* b;
  int64_t b_row;
  float* c;
  int64_t c_row;
};

/// PairProduct by the instruction vdpbf16ps.
class DotProducts {
 public:
  template <bool kAdd>
  void multiply(const PairProduct& p, int64_t rows, int64_t columns, int64_t depth) const {
    for (int64_t row = 0; row < rows; row += kRows) {
      int64_t column = 0;
      for (; column + 3 * kLanes <= columns; column += 3 * kLanes) panel<3, kAdd>(p, row, column, depth);
      if (column + 2 * kLanes <= columns) {
        panel<2, kAdd>(p, row, column, depth);
      } else if (column < columns) {
        panel<1, kAdd>(p, row, column, depth);
      }
    }
  }

 private:
  static constexpr int64_t kRows = 8;  // 8 x 3 sums, 3 of B, 1 of A: 28 of 32 registers

  template <int64_t kVectors, bool kAdd>
  static void panel(const PairProduct& p, int64_t row, int64_t column, int64_t depth) {
    __m512 total[kRows][kVectors];
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t v = 0; v < kVectors; ++v) {
        total[r][v] = kAdd ? _mm512_loadu_ps(p.c + (row + r) * p.c_row + column + v * kLanes) : _mm512_setzero_ps();
      }
    }
    for (int64_t pair = 0; pair < depth / 2; ++pair) {
      __m512i b[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) b[v] = _mm512_loadu_si512(p.b + pair * p.b_row + column + v * kLanes);
      for (int64_t r = 0; r < kRows; ++r) {
        int both;
        std::memcpy(&both, p.a + (row + r) * p.a_row + 2 * pair, sizeof(both));
        const __m512i a = _mm512_set1_epi32(both);
        for (int64_t v = 0; v < kVectors; ++v) total[r][v] = _mm512_dpbf16_ps(total[r][v], (__m512bh)a, (__m512bh)b[v]);
      }
    }
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t v = 0; v < kVectors; ++v) _mm512_storeu_ps(p.c + (row + r) * p.c_row + column + v * kLanes, total[r][v]);
    }
  }
};

/// 16 floats as bfloat16, to nearest even.
POCKETVLM_INLINE Halves rounded(Floats x) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
/// Neighbours of the depth as one word, the first of them low.
POCKETVLM_INLINE Words paired(Halves first, Halves second) {
  return __builtin_convertvector(first, Words) | __builtin_convertvector(second, Words) << 16;
}

/// Rows of one head, [round_up(count, kPairDepth), width] padded with zeros, turned by position if asked.
[[maybe_unused]] void pair_rows(const Attention& a,
                                const void* source,
                                int64_t stride,
                                int64_t begin,
                                int64_t count,
                                int64_t head,
                                bool rotated,
                                std::uint16_t* out) {
  const int64_t width = round_up(a.head_dim, kPairDepth);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t token = begin + row;
    const Bf16* x = static_cast<const Bf16*>(source) + token * stride + head * a.head_dim;
    std::uint16_t* y = out + row * width;
    if (!rotated) {
      std::memcpy(y, x, static_cast<std::size_t>(2 * a.head_dim));
    } else {
      turn_row(a, x, token, 1.0F, reinterpret_cast<Bf16*>(y));
    }
    for (int64_t i = a.head_dim; i < width; ++i) y[i] = 0;
  }
  const int64_t padding = round_up(count, kPairDepth) - count;
  std::memset(out + count * width, 0, static_cast<std::size_t>(2 * padding * width));
}

/// The words of in [rows, columns] transposed, both multiples of 16.
[[maybe_unused]] void transpose_words(const void* in, int64_t rows, int64_t columns, void* out) {
  transpose(static_cast<const float*>(in), rows, columns, static_cast<float*>(out));  // moves bits alone
}

/// Rows [rows, width] as pairs along the rows: [rows / 2][width][2].
[[maybe_unused]] void pair_up_rows(const std::uint16_t* in, int64_t rows, int64_t width, std::uint32_t* out) {
  for (int64_t row = 0; row < rows; row += 2) {
    for (int64_t i = 0; i < width; i += kLanes) {
      Halves first, second;
      std::memcpy(&first, in + row * width + i, sizeof(first));
      std::memcpy(&second, in + (row + 1) * width + i, sizeof(second));
      const Words words = paired(first, second);
      std::memcpy(out + row / 2 * width + i, &words, sizeof(words));
    }
  }
}

/// Where the parts of a thread's scratch lie: the sizes in bytes of what is taken are added up, in whole cache lines.
class Scratch {
 public:
  explicit Scratch(float* memory) : next_(round_up(reinterpret_cast<std::intptr_t>(memory), kLine)) {}
  template <typename T>
  T* take(int64_t count) {
    auto* const here = reinterpret_cast<T*>(next_);
    next_ += round_up(count * static_cast<int64_t>(sizeof(T)), kLine);
    return here;
  }
  int64_t floats_since(const float* memory) const {
    return (next_ - reinterpret_cast<std::intptr_t>(memory) + kLine) / static_cast<int64_t>(sizeof(float));
  }

 private:
  static constexpr int64_t kLine = 64;
  std::intptr_t next_;
};

/// What both directions need: the segment's keys or values, and a block of queries.
struct PairBuffers {
  int64_t width, row_max;
  std::uint16_t *rows, *queries, *weights;
  std::uint32_t *keys, *values;
  float *scores, *results;

  PairBuffers(const Attention& a, Scratch& scratch)
      : width(round_up(a.head_dim, kPairDepth)),
        row_max(round_up(a.longest_k, kPairDepth)),
        rows(scratch.take<std::uint16_t>(row_max * width)),
        queries(scratch.take<std::uint16_t>(kQueryBlock * width)),
        weights(scratch.take<std::uint16_t>(kQueryBlock * row_max)),
        keys(scratch.take<std::uint32_t>(row_max / 2 * width)),
        values(scratch.take<std::uint32_t>(row_max / 2 * width)),
        scores(scratch.take<float>(kQueryBlock * row_max)),
        results(scratch.take<float>(kQueryBlock * lanes_up(a.head_dim))) {}
};

/// What the way back needs beside.
struct PairGradients {
  std::uint16_t *grad_outs, *queries_transposed, *grad_outs_transposed;
  std::uint32_t *key_rows, *query_pairs, *weight_pairs, *slope_pairs;
  float *slopes, *grad_keys, *grad_values;

  PairGradients(const Attention& a, const PairBuffers& b, Scratch& scratch)
      : grad_outs(scratch.take<std::uint16_t>(kQueryBlock * b.width)),
        queries_transposed(scratch.take<std::uint16_t>(kQueryBlock * b.width)),
        grad_outs_transposed(scratch.take<std::uint16_t>(kQueryBlock * b.width)),
        key_rows(scratch.take<std::uint32_t>(b.row_max / 2 * b.width)),
        query_pairs(scratch.take<std::uint32_t>(kQueryBlock / 2 * b.width)),
        weight_pairs(scratch.take<std::uint32_t>(kQueryBlock / 2 * b.row_max)),
        slope_pairs(scratch.take<std::uint32_t>(kQueryBlock / 2 * b.row_max)),
        slopes(scratch.take<float>(kQueryBlock * b.row_max)),
        grad_keys(scratch.take<float>(lanes_up(a.head_dim) * b.row_max)),
        grad_values(scratch.take<float>(lanes_up(a.head_dim) * b.row_max)) {}
};

[[maybe_unused]] int64_t pair_attention_scratch(const Attention& a) {
  Scratch scratch(nullptr);
  const PairBuffers buffers(a, scratch);
  const PairGradients gradients(a, buffers, scratch);
  const int64_t in_pairs = scratch.floats_since(nullptr), in_floats = attention_scratch_floats(a);
  return in_pairs > in_floats ? in_pairs : in_floats;
}

/// Keys that the group of queries starting at `row` computes with.
inline int64_t group_columns(const BlockShape& shape, int64_t row) {
  return round_up(shape.visible(smaller(row + kPairGroup, shape.rows) - 1), kPairDepth);
}

/// Calls f(row, count, columns) for each group of queries: its first one, the rows of its products, the keys they see.
template <typename F>
void for_groups(const BlockShape& shape, F&& f) {
  for (int64_t row = 0; row < shape.rows; row += kPairGroup) {
    f(row, round_up(smaller(kPairGroup, shape.rows - row), kPairRows), group_columns(shape, row));
  }
}

/// scores [rows, row_size] = rows of a block times the transposed keys (or values), as far as each group sees.
template <typename Products>
void score_groups(const Products& products,
                  const BlockShape& shape,
                  const std::uint16_t* rows,
                  int64_t width,
                  const std::uint32_t* transposed,
                  float* scores,
                  int64_t row_size) {
  for_groups(shape, [&](int64_t row, int64_t count, int64_t columns) {
    products.template multiply<false>({rows + row * width, width, transposed, row_size, scores + row * row_size, row_size}, count, columns, width);
  });
}

/// results [rows, result_width] = weights [rows, row_size] times pairs of keys' (or values') rows.
template <typename Products>
void weigh_groups(const Products& products,
                  const BlockShape& shape,
                  const std::uint16_t* weights,
                  int64_t row_size,
                  const std::uint32_t* rows,
                  int64_t width,
                  float* results,
                  int64_t result_width) {
  for_groups(shape, [&](int64_t row, int64_t count, int64_t columns) {
    products.template multiply<false>(
        {weights + row * row_size, row_size, rows, width, results + row * result_width, result_width}, count, result_width, columns);
  });
}

/// Softmax of one row without its division: weights of `columns` keys as bfloat16, and the sum of their float32 values.
struct SoftmaxRow {
  float top, total;
};
[[maybe_unused]] SoftmaxRow soften(float* scores, int64_t visible, int64_t columns, float scale, std::uint16_t* weights) {
  close_row(scores, visible, columns, -1e30F);
  Floats best = load(scores);
  for (int64_t j = kLanes; j < columns; j += kLanes) best = maximum(best, load(scores + j));
  const float top = largest(best);
  Floats total = {};
  for (int64_t j = 0; j < columns; j += kLanes) {
    const Floats weight = exponential((load(scores + j) - top) * scale);
    total += weight;
    const Halves halves = rounded(weight);
    std::memcpy(weights + j, &halves, sizeof(halves));
  }
  return {top * scale, sum(total)};
}

template <typename Products>
void pair_attention_forward(const Attention& a, int64_t item_begin, int64_t item_end, float* memory) {
  const Products products;
  Scratch scratch(memory);
  const PairBuffers b(a, scratch);
  const int64_t result_width = lanes_up(a.head_dim), group = a.heads / a.kv_heads;
  const bool rotated = a.cosine != nullptr;
  for (int64_t item = item_begin; item < item_end; ++item) {
    const int64_t segment = item / a.kv_heads, kv_head = item % a.kv_heads;
    const int64_t num_keys = a.k_length[segment], num_queries = a.q_length[segment];
    const int64_t before = a.q_first != nullptr ? a.q_first[segment] : 0;
    const int64_t row_size = round_up(num_keys, kPairDepth);
    pair_rows(a, a.k, a.k_stride, a.k_begin[segment], num_keys, kv_head, rotated, b.rows);
    transpose_words(b.rows, row_size, b.width / 2, b.keys);
    pair_rows(a, a.v, a.v_stride, a.k_begin[segment], num_keys, kv_head, false, b.rows);
    pair_up_rows(b.rows, row_size, b.width, b.values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t first = 0; first < num_queries; first += kQueryBlock) {
        const BlockShape shape = {a.causal, first + before, smaller(kQueryBlock, num_queries - first), num_keys};
        const int64_t token = a.q_begin[segment] + first;
        pair_rows(a, a.q, a.q_stride, token, shape.rows, head, rotated, b.queries);
        score_groups(products, shape, b.queries, b.width, b.keys, b.scores, row_size);
        float inverse[kQueryBlock];
        for (int64_t row = 0; row < shape.rows; ++row) {
          const int64_t columns = group_columns(shape, row / kPairGroup * kPairGroup);
          const SoftmaxRow softmax =
              soften(b.scores + row * row_size, shape.visible(row), columns, a.scale, b.weights + row * row_size);
          inverse[row] = 1.0F / softmax.total;
          a.log_sum[(token + row) * a.heads + head] = softmax.top + __builtin_logf(softmax.total);
        }
        weigh_groups(products, shape, b.weights, row_size, b.values, b.width, b.results, result_width);
        for (int64_t row = 0; row < shape.rows; ++row) {
          Bf16* out = static_cast<Bf16*>(a.out) + ((token + row) * a.heads + head) * a.head_dim;
          const float* r = b.results + row * result_width;
          for_lanes(a.head_dim, [&](int64_t i, int64_t n) { store_lanes(out + i, load_lanes(r + i, n) * inverse[row], n); });
        }
      }
    }
  }
}

/// One row of scores and one of the gradients of attention weights.
struct SlopeRow {
  const float *scores, *slopes;
  float log_sum, mean;
};

/// Attention weights of keys [j, j + kLanes), and the slopes of their scores before scaling, as bfloat16.
POCKETVLM_INLINE void slope_lanes(const SlopeRow& row, float scale, int64_t j, Halves& weight, Halves& slope) {
  const Floats exact = exponential(load(row.scores + j) * scale - row.log_sum);
  weight = rounded(exact);
  slope = rounded(exact * (load(row.slopes + j) - row.mean));
}

template <typename Products>
void pair_attention_backward(const Attention& a, int64_t item_begin, int64_t item_end, float* memory) {
  const Products products;
  Scratch scratch(memory);
  const PairBuffers b(a, scratch);
  const PairGradients g(a, b, scratch);
  const int64_t result_width = lanes_up(a.head_dim), group = a.heads / a.kv_heads;
  const bool rotated = a.cosine != nullptr;
  for (int64_t item = item_begin; item < item_end; ++item) {
    const int64_t segment = item / a.kv_heads, kv_head = item % a.kv_heads;
    const int64_t num_keys = a.k_length[segment], num_queries = a.q_length[segment];
    const int64_t before = a.q_first != nullptr ? a.q_first[segment] : 0;
    const int64_t k_begin = a.k_begin[segment];
    const int64_t row_size = round_up(num_keys, kPairDepth);
    pair_rows(a, a.v, a.v_stride, k_begin, num_keys, kv_head, false, b.rows);
    transpose_words(b.rows, row_size, b.width / 2, b.values);
    pair_rows(a, a.k, a.k_stride, k_begin, num_keys, kv_head, rotated, b.rows);
    transpose_words(b.rows, row_size, b.width / 2, b.keys);
    pair_up_rows(b.rows, row_size, b.width, g.key_rows);
    std::memset(g.grad_keys, 0, static_cast<std::size_t>(result_width * row_size) * sizeof(float));
    std::memset(g.grad_values, 0, static_cast<std::size_t>(result_width * row_size) * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t first = 0; first < num_queries; first += kQueryBlock) {
        const BlockShape shape = {a.causal, first + before, smaller(kQueryBlock, num_queries - first), num_keys};
        const int64_t token = a.q_begin[segment] + first;
        const int64_t depth = round_up(shape.rows, kPairDepth);
        const auto transposed = [&](const std::uint16_t* rows, std::uint16_t* out) {
          pair_up_rows(rows, depth, b.width, g.query_pairs);
          transpose(reinterpret_cast<const float*>(g.query_pairs), depth / 2, b.width, reinterpret_cast<float*>(out));
        };
        pair_rows(a, a.q, a.q_stride, token, shape.rows, head, rotated, b.queries);
        pair_rows(a, a.grad_out, a.heads * a.head_dim, token, shape.rows, head, false, g.grad_outs);
        transposed(b.queries, g.queries_transposed);
        transposed(g.grad_outs, g.grad_outs_transposed);
        score_groups(products, shape, b.queries, b.width, b.keys, b.scores, row_size);
        score_groups(products, shape, g.grad_outs, b.width, b.values, g.slopes, row_size);
        const int64_t last_columns = round_up(shape.visible(shape.rows - 1), kPairDepth);
        const auto row_at = [&](int64_t row) -> SlopeRow {
          const Bf16* out = static_cast<const Bf16*>(a.out) + ((token + row) * a.heads + head) * a.head_dim;
          const Bf16* grad_out = reinterpret_cast<const Bf16*>(g.grad_outs + row * b.width);
          Floats outs_times_grads = {};
          for_lanes(a.head_dim, [&](int64_t i, int64_t n) {
            outs_times_grads += load_lanes(out + i, n) * load_lanes(grad_out + i, n);
          });
          float* scores = b.scores + row * row_size;
          float* slopes = g.slopes + row * row_size;
          const int64_t columns = group_columns(shape, row / kPairGroup * kPairGroup);
          close_row(scores, shape.visible(row), columns, -1e30F);
          close_row(slopes, shape.visible(row), columns, 0.0F);
          // The slopes' mean, weighted by attention, is the product of the row's output and its gradient.
          return {scores, slopes, a.log_sum[(token + row) * a.heads + head], sum(outs_times_grads)};
        };
        for (int64_t row = 0; row < depth; row += 2) {
          std::uint32_t* weight_pairs = g.weight_pairs + row / 2 * row_size;
          std::uint32_t* slope_pairs = g.slope_pairs + row / 2 * row_size;
          int64_t columns = 0;
          if (row < shape.rows) {
            const bool two = row + 1 < shape.rows;
            const SlopeRow even = row_at(row), odd = two ? row_at(row + 1) : SlopeRow{};
            columns = group_columns(shape, row / kPairGroup * kPairGroup);
            for (int64_t j = 0; j < columns; j += kLanes) {
              Halves even_weight, odd_weight = {}, even_slope, odd_slope = {};
              slope_lanes(even, a.scale, j, even_weight, even_slope);
              if (two) slope_lanes(odd, a.scale, j, odd_weight, odd_slope);
              const Words weight_words = paired(even_weight, odd_weight), slope_words = paired(even_slope, odd_slope);
              std::memcpy(weight_pairs + j, &weight_words, sizeof(weight_words));
              std::memcpy(slope_pairs + j, &slope_words, sizeof(slope_words));
              std::memcpy(b.weights + row * row_size + j, &even_slope, sizeof(even_slope));
              std::memcpy(b.weights + (row + 1) * row_size + j, &odd_slope, sizeof(odd_slope));
            }
          }
          const auto rest = static_cast<std::size_t>(last_columns - columns) * sizeof(std::uint32_t);
          std::memset(weight_pairs + columns, 0, rest);
          std::memset(slope_pairs + columns, 0, rest);
        }
        weigh_groups(products, shape, b.weights, row_size, g.key_rows, b.width, b.results, result_width);
        unpack_rows<Bf16>(a, b.results, token, shape.rows, head, rotated, a.scale, a.grad_q, a.grad_q_stride);
        const PairProduct to_values = {g.grad_outs_transposed, depth, g.weight_pairs, row_size, g.grad_values, row_size};
        const PairProduct to_keys = {g.queries_transposed, depth, g.slope_pairs, row_size, g.grad_keys, row_size};
        products.template multiply<true>(to_values, result_width, last_columns, depth);
        products.template multiply<true>(to_keys, result_width, last_columns, depth);
      }
    }
    // The scores' buffer is free now: rows of gradients, a block of keys at a time.
    for (int64_t key = 0; key < num_keys; key += kPairGroup) {
      const int64_t count = smaller(kPairGroup, num_keys - key);
      const auto write = [&](const float* transposed, bool turned, float scale, void* target, int64_t stride) {
        for (int64_t i = 0; i < kPairGroup; i += kLanes) {
          for (int64_t c = 0; c < result_width; c += kLanes) {
            Floats square[kLanes];
            for (int64_t r = 0; r < kLanes; ++r) square[r] = load(transposed + (c + r) * row_size + key + i);
            transpose_square(square);
            for (int64_t r = 0; r < kLanes; ++r) store(b.results + (i + r) * result_width + c, square[r]);
          }
        }
        unpack_rows<Bf16>(a, b.results, k_begin + key, count, kv_head, turned, scale, target, stride);
      };
      write(g.grad_keys, rotated, a.scale, a.grad_k, a.grad_k_stride);
      write(g.grad_values, false, 1.0F, a.grad_v, a.grad_v_stride);
    }
  }
}

/// Lets a table compute attention of bfloat16 by such products.
template <typename Products>
constexpr void use_pair_attention(Table& table) {
  table.attention_scratch = pair_attention_scratch;
  table.attention_forward = by_type<Attention, attention_forward_items<float>, pair_attention_forward<Products>>;
  table.attention_backward = by_type<Attention, attention_backward_items<float>, pair_attention_backward<Products>>;
}

}  // namespace
}  // namespace pocketvlm::kernels
