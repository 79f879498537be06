#pragma once

#include "model/kernels/matrix_body.h"

namespace pocketvlm::kernels {
namespace {

/// Queries handled together, a multiple of every panel height: their scores stay in the second-level cache.
constexpr int64_t kQueryBlock = 96;

/// One head's row times `scale`, turned by the position of its token.
template <typename T, typename Out>
POCKETVLM_INLINE void turn_row(const Attention& a, const T* x, int64_t token, float scale, Out* y) {
  const int64_t half = a.head_dim / 2;
  for_lanes(half, [&](int64_t i, int64_t n) {
    const Floats low = load_lanes(x + i, n) * scale, high = load_lanes(x + half + i, n) * scale;
    const Floats c = load_lanes(a.cosine + token * half + i, n), s = load_lanes(a.sine + token * half + i, n);
    store_lanes(y + i, low * c - high * s, n);
    store_lanes(y + half + i, high * c + low * s, n);
  });
}

/// Rows of one head as floats, [count, width] with zero padding up to whole vectors, scaled, turned by position if asked.
template <typename T>
void pack_rows(const Attention& a,
               const void* source,
               int64_t stride,
               int64_t begin,
               int64_t count,
               int64_t head,
               bool rotated,
               float scale,
               float* out) {
  const int64_t width = lanes_up(a.head_dim);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t token = begin + row;
    const T* x = static_cast<const T*>(source) + token * stride + head * a.head_dim;
    float* y = out + row * width;
    if (!rotated) {
      for_lanes(a.head_dim, [&](int64_t i, int64_t n) { store(y + i, load_lanes(x + i, n) * scale); });
      continue;
    }
    if (width != a.head_dim) std::memset(y, 0, static_cast<std::size_t>(width) * sizeof(float));
    turn_row(a, x, token, scale, y);
  }
}

/// The way back for gradients: rows of floats to one head of the output, turned back by position if asked.
template <typename T>
void unpack_rows(const Attention& a,
                 const float* rows,
                 int64_t begin,
                 int64_t count,
                 int64_t head,
                 bool rotated,
                 float scale,
                 void* target,
                 int64_t stride) {
  const int64_t width = lanes_up(a.head_dim);
  const int64_t half = a.head_dim / 2;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t token = begin + row;
    const float* x = rows + row * width;
    T* y = static_cast<T*>(target) + token * stride + head * a.head_dim;
    if (!rotated) {
      for_lanes(a.head_dim, [&](int64_t i, int64_t n) { store_lanes(y + i, load_lanes(x + i, n) * scale, n); });
      continue;
    }
    for_lanes(half, [&](int64_t i, int64_t n) {
      const Floats low = load_lanes(x + i, n) * scale, high = load_lanes(x + half + i, n) * scale;
      const Floats c = load_lanes(a.cosine + token * half + i, n), s = load_lanes(a.sine + token * half + i, n);
      store_lanes(y + i, low * c + high * s, n);
      store_lanes(y + half + i, high * c - low * s, n);
    });
  }
}

/// Sets the scores of keys that a row may not see, up to the end of their vector, to `value`.
POCKETVLM_INLINE void close_row(float* scores, int64_t visible, int64_t columns, float value) {
  for (int64_t j = visible; j < columns; ++j) scores[j] = value;
}

struct BlockShape {
  bool causal;
  int64_t first;    // the block's first query among the segment's keys
  int64_t rows;
  int64_t keys;

  int64_t visible(int64_t row) const { return causal ? smaller(first + row + 1, keys) : keys; }
  /// Columns that the panel of rows starting at `row` computes.
  int64_t columns(int64_t row) const { return lanes_up(visible(smaller(row + kPanelRows, rows) - 1)); }
};

/// scores [rows, row_size] = q k^T, as far as each panel sees.
[[maybe_unused]] void score_block(const BlockShape& shape,
                                  const float* q,
                                  int64_t width,
                                  const float* k_transposed,
                                  float* scores,
                                  int64_t row_size) {
  const Product product = {q, width, 1, k_transposed, row_size, scores, row_size};
  for (int64_t row = 0; row < shape.rows; row += kPanelRows) {
    panel_rows<false>(product, row, smaller(kPanelRows, shape.rows - row), shape.columns(row), 0, width);
  }
}

template <typename T>
void attention_forward_items(const Attention& a, int64_t item_begin, int64_t item_end, float* scratch) {
  const int64_t width = lanes_up(a.head_dim);
  const int64_t row_max = lanes_up(a.longest_k);
  const int64_t group = a.heads / a.kv_heads;
  float* packed = scratch;                          // [row_max, width]: keys on their way, then values
  float* keys_transposed = packed + row_max * width;  // [width, row_max]
  float* queries = keys_transposed + row_max * width;  // [kQueryBlock, width]
  float* results = queries + kQueryBlock * width;   // [kQueryBlock, width]
  float* scores = results + kQueryBlock * width;    // [kQueryBlock, row_max]
  const bool rotated = a.cosine != nullptr;
  for (int64_t item = item_begin; item < item_end; ++item) {
    const int64_t segment = item / a.kv_heads, kv_head = item % a.kv_heads;
    const int64_t num_keys = a.k_length[segment], num_queries = a.q_length[segment];
    const int64_t before = a.q_first != nullptr ? a.q_first[segment] : 0;
    const int64_t row_size = lanes_up(num_keys);
    pack_rows<T>(a, a.k, a.k_stride, a.k_begin[segment], num_keys, kv_head, rotated, 1.0F, packed);
    transpose(packed, num_keys, width, keys_transposed);
    pack_rows<T>(a, a.v, a.v_stride, a.k_begin[segment], num_keys, kv_head, false, 1.0F, packed);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t first = 0; first < num_queries; first += kQueryBlock) {
        const BlockShape shape = {
            a.causal, first + before, smaller(kQueryBlock, num_queries - first), num_keys};
        const int64_t token = a.q_begin[segment] + first;
        pack_rows<T>(a, a.q, a.q_stride, token, shape.rows, head, rotated, a.scale, queries);
        score_block(shape, queries, width, keys_transposed, scores, row_size);
        float inverse[kQueryBlock];
        for (int64_t row = 0; row < shape.rows; ++row) {
          float* s = scores + row * row_size;
          const int64_t panel_begin = row / kPanelRows * kPanelRows;
          const int64_t columns = shape.columns(panel_begin);
          close_row(s, shape.visible(row), columns, -1e30F);
          Floats best = load(s);
          for (int64_t j = kLanes; j < columns; j += kLanes) best = maximum(best, load(s + j));
          const float top = largest(best);
          Floats total = {};
          for (int64_t j = 0; j < columns; j += kLanes) {
            const Floats e = exponential(load(s + j) - top);
            total += e;
            store(s + j, e);
          }
          const float normalizer = sum(total);
          inverse[row] = 1.0F / normalizer;
          a.log_sum[(token + row) * a.heads + head] = top + __builtin_logf(normalizer);
        }
        const Product product = {scores, row_size, 1, packed, width, results, width};
        for (int64_t row = 0; row < shape.rows; row += kPanelRows) {
          const int64_t rows = smaller(kPanelRows, shape.rows - row);
          panel_rows<false>(product, row, rows, width, 0, shape.visible(row + rows - 1));
        }
        for (int64_t row = 0; row < shape.rows; ++row) {
          T* out = static_cast<T*>(a.out) + ((token + row) * a.heads + head) * a.head_dim;
          const float* r = results + row * width;
          for_lanes(a.head_dim, [&](int64_t i, int64_t n) { store_lanes(out + i, load_lanes(r + i, n) * inverse[row], n); });
        }
      }
    }
  }
}

template <typename T>
void attention_backward_items(const Attention& a, int64_t item_begin, int64_t item_end, float* scratch) {
  const int64_t width = lanes_up(a.head_dim);
  const int64_t row_max = lanes_up(a.longest_k);
  const int64_t group = a.heads / a.kv_heads;
  const int64_t panel_size = row_max * width;
  float* keys = scratch;                            // [row_max, width]
  float* keys_transposed = keys + panel_size;       // [width, row_max]
  float* values_transposed = keys_transposed + panel_size;
  float* grad_keys = values_transposed + panel_size;
  float* grad_values = grad_keys + panel_size;
  float* queries = grad_values + panel_size;        // [kQueryBlock, width]
  float* grad_outs = queries + kQueryBlock * width;
  float* results = grad_outs + kQueryBlock * width;
  float* weights = results + kQueryBlock * width;   // [kQueryBlock, row_max]
  float* slopes = weights + kQueryBlock * row_max;  // [kQueryBlock, row_max]
  const bool rotated = a.cosine != nullptr;
  for (int64_t item = item_begin; item < item_end; ++item) {
    const int64_t segment = item / a.kv_heads, kv_head = item % a.kv_heads;
    const int64_t num_keys = a.k_length[segment], num_queries = a.q_length[segment];
    const int64_t before = a.q_first != nullptr ? a.q_first[segment] : 0;
    const int64_t k_begin = a.k_begin[segment];
    const int64_t row_size = lanes_up(num_keys);
    pack_rows<T>(a, a.v, a.v_stride, k_begin, num_keys, kv_head, false, 1.0F, keys);
    transpose(keys, num_keys, width, values_transposed);
    pack_rows<T>(a, a.k, a.k_stride, k_begin, num_keys, kv_head, rotated, 1.0F, keys);
    transpose(keys, num_keys, width, keys_transposed);
    std::memset(grad_keys, 0, static_cast<std::size_t>(num_keys * width) * sizeof(float));
    std::memset(grad_values, 0, static_cast<std::size_t>(num_keys * width) * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t first = 0; first < num_queries; first += kQueryBlock) {
        const BlockShape shape = {
            a.causal, first + before, smaller(kQueryBlock, num_queries - first), num_keys};
        const int64_t token = a.q_begin[segment] + first;
        pack_rows<T>(a, a.q, a.q_stride, token, shape.rows, head, rotated, a.scale, queries);
        pack_rows<T>(a, a.grad_out, a.heads * a.head_dim, token, shape.rows, head, false, 1.0F, grad_outs);
        score_block(shape, queries, width, keys_transposed, weights, row_size);
        score_block(shape, grad_outs, width, values_transposed, slopes, row_size);
        for (int64_t row = 0; row < shape.rows; ++row) {
          const T* out = static_cast<const T*>(a.out) + ((token + row) * a.heads + head) * a.head_dim;
          Floats products = {};
          for_lanes(a.head_dim, [&](int64_t i, int64_t n) {
            products += load_lanes(out + i, n) * load(grad_outs + row * width + i);
          });
          const float mean = sum(products);  // of the slopes, weighted by attention
          const float log_sum = a.log_sum[(token + row) * a.heads + head];
          float* p = weights + row * row_size;
          float* s = slopes + row * row_size;
          const int64_t columns = shape.columns(row / kPanelRows * kPanelRows);
          close_row(p, shape.visible(row), columns, -1e30F);
          close_row(s, shape.visible(row), columns, 0.0F);
          for (int64_t j = 0; j < columns; j += kLanes) {
            const Floats weight = exponential(load(p + j) - log_sum);
            store(p + j, weight);
            store(s + j, weight * (load(s + j) - mean));
          }
        }
        const Product to_queries = {slopes, row_size, 1, keys, width, results, width};
        for (int64_t row = 0; row < shape.rows; row += kPanelRows) {
          const int64_t rows = smaller(kPanelRows, shape.rows - row);
          panel_rows<false>(to_queries, row, rows, width, 0, shape.visible(row + rows - 1));
        }
        unpack_rows<T>(a, results, token, shape.rows, head, rotated, a.scale, a.grad_q, a.grad_q_stride);
        // Keys receive from the queries that see them; panels of both sides start at multiples of one height, so the
        // weights a panel of keys reads above the diagonal were set to zero.
        const Product to_values = {weights, 1, row_size, grad_outs, width, grad_values, width};
        const Product to_keys = {slopes, 1, row_size, queries, width, grad_keys, width};
        const int64_t last_key = shape.visible(shape.rows - 1);
        for (int64_t key = 0; key < last_key; key += kPanelRows) {
          const int64_t rows = smaller(kPanelRows, num_keys - key);
          const int64_t seen_from = shape.causal && key > shape.first ? key - shape.first : 0;
          panel_rows<true>(to_values, key, rows, width, seen_from, shape.rows);
          panel_rows<true>(to_keys, key, rows, width, seen_from, shape.rows);
        }
      }
    }
    unpack_rows<T>(a, grad_keys, k_begin, num_keys, kv_head, rotated, 1.0F, a.grad_k, a.grad_k_stride);
    unpack_rows<T>(a, grad_values, k_begin, num_keys, kv_head, false, 1.0F, a.grad_v, a.grad_v_stride);
  }
}

[[maybe_unused]] int64_t attention_scratch_floats(const Attention& a) {
  const int64_t width = lanes_up(a.head_dim);
  const int64_t row_max = lanes_up(a.longest_k);
  return 5 * row_max * width + 3 * kQueryBlock * width + 2 * kQueryBlock * row_max;
}

}  // namespace
}  // namespace pocketvlm::kernels
