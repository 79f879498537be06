#pragma once

#include "model/kernels/matrix_body.h"

namespace pocketvlm::kernels {
namespace {

/// The sums of as many vectors as lanes, as one vector.
POCKETVLM_INLINE Floats sums_of(Floats (&v)[kLanes]) {
  transpose_square(v);
  Floats total = v[0];
  for (int64_t i = 1; i < kLanes; ++i) total += v[i];
  return total;
}

/// scores[j] = query . keys[j] for `count` keys of head_dim elements.
template <typename T>
void dot_keys(const float* query, const T* keys, int64_t count, int64_t head_dim, float* scores) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    Floats totals[kLanes] = {};
    for_lanes(head_dim, [&](int64_t i, int64_t n) {
      const Floats q = load(query + i);
      for (int64_t r = 0; r < kLanes; ++r) totals[r] += q * load_lanes(keys + (j + r) * head_dim + i, n);
    });
    store(scores + j, sums_of(totals));
  }
  for (; j < count; ++j) {
    Floats total = {};
    for_lanes(head_dim, [&](int64_t i, int64_t n) { total += load(query + i) * load_lanes(keys + j * head_dim + i, n); });
    scores[j] = sum(total);
  }
}

/// out += sum of weights[j] * values[j].
template <typename T>
void add_values(const float* weights, const T* values, int64_t count, int64_t head_dim, float* out) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= head_dim; i += 4 * kLanes) {
    Floats total[4];
    for (int64_t v = 0; v < 4; ++v) total[v] = load(out + i + v * kLanes);
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t v = 0; v < 4; ++v) total[v] += load(values + j * head_dim + i + v * kLanes) * weights[j];
    }
    for (int64_t v = 0; v < 4; ++v) store(out + i + v * kLanes, total[v]);
  }
  for_lanes(head_dim - i, [&](int64_t k, int64_t n) {
    Floats total = load(out + i + k);
    for (int64_t j = 0; j < count; ++j) total += load_lanes(values + j * head_dim + i + k, n) * weights[j];
    store(out + i + k, total);
  });
}

[[maybe_unused]] int64_t decode_scratch_floats(const DecodeAttention& a) {
  return 2 * lanes_up(a.head_dim) + lanes_up(a.prefix_capacity + a.tail_capacity);
}

template <typename T>
void decode_items(const DecodeAttention& a, int64_t item_begin, int64_t item_end, float* scratch) {
  const int64_t width = lanes_up(a.head_dim);
  const int64_t group = a.heads / a.kv_heads;
  float* query = scratch;
  float* result = query + width;
  float* scores = result + width;
  for (int64_t item = item_begin; item < item_end; ++item) {
    const int64_t row = item / a.kv_heads, kv_head = item % a.kv_heads;
    const int64_t sequence = a.sequences[row];
    const int64_t prompt = sequence / a.samples;
    const int64_t prefix = a.prefix_lengths[prompt];
    const int64_t prefix_at = (prompt * a.kv_heads + kv_head) * a.prefix_capacity * a.head_dim;
    const int64_t tail_at = (sequence * a.kv_heads + kv_head) * a.tail_capacity * a.head_dim;
    const int64_t tail = a.tails[sequence] + 1;
    const int64_t total_keys = prefix + tail;
    T* tail_key = static_cast<T*>(a.tail_key) + tail_at;
    T* tail_value = static_cast<T*>(a.tail_value) + tail_at;
    const T* new_key = static_cast<const T*>(a.k) + row * a.k_stride + kv_head * a.head_dim;
    const T* new_value = static_cast<const T*>(a.v) + row * a.v_stride + kv_head * a.head_dim;
    const std::size_t bytes = static_cast<std::size_t>(a.head_dim) * sizeof(T);
    std::memcpy(tail_key + (tail - 1) * a.head_dim, new_key, bytes);
    std::memcpy(tail_value + (tail - 1) * a.head_dim, new_value, bytes);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const T* q = static_cast<const T*>(a.q) + row * a.q_stride + head * a.head_dim;
      for_lanes(a.head_dim, [&](int64_t i, int64_t n) {
        store(query + i, load_lanes(q + i, n) * a.scale);
        store(result + i, Floats{});
      });
      dot_keys(query, static_cast<const T*>(a.prefix_key) + prefix_at, prefix, a.head_dim, scores);
      dot_keys(query, tail_key, tail, a.head_dim, scores + prefix);
      for (int64_t j = total_keys; j < lanes_up(total_keys); ++j) scores[j] = -1e30F;
      Floats best = load(scores);
      for (int64_t j = kLanes; j < total_keys; j += kLanes) best = maximum(best, load(scores + j));
      const float top = largest(best);
      Floats total = {};
      for (int64_t j = 0; j < total_keys; j += kLanes) {
        const Floats e = exponential(load(scores + j) - top);
        total += e;
        store(scores + j, e);
      }
      add_values(scores, static_cast<const T*>(a.prefix_value) + prefix_at, prefix, a.head_dim, result);
      add_values(scores + prefix, tail_value, tail, a.head_dim, result);
      const float inverse = 1.0F / sum(total);
      T* out = static_cast<T*>(a.out) + (row * a.heads + head) * a.head_dim;
      for_lanes(a.head_dim, [&](int64_t i, int64_t n) { store_lanes(out + i, load_lanes(result + i, n) * inverse, n); });
    }
  }
}

}  // namespace
}  // namespace pocketvlm::kernels
