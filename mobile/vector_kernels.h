#pragma once

#include <cstdint>

#include "mobile/kernels.h"

/// The float kernels written once over a vector type V, which each instruction set defines in its
/// own file:
///   kLanes, kRows x kTokens (accumulators of the matrix kernel that fit its registers), Type
///   zero, set1, load, load_part(p, n), store, store_part(p, v, n), load_f16 / load_bf16 (p) and
///   their _part forms, add, sub, mul, div, fma(a, b, c) = a b + c, max, abs, round (half to even),
///   pow2(integral float), sum, largest, select_negative(x, a, b)
/// Every (row, token) is accumulated in one register from left to right, so its value does not
/// depend on what is computed beside it. Included by files with different instruction sets, hence
/// internal linkage.
namespace pocketvlm {
namespace {

template <typename V>
struct LoadF32 {
  static constexpr std::int64_t kBytes = 4;
  static typename V::Type full(const std::uint8_t* p) {
    return V::load(reinterpret_cast<const float*>(p));
  }
  static typename V::Type part(const std::uint8_t* p, std::int64_t n) {
    return V::load_part(reinterpret_cast<const float*>(p), n);
  }
};

template <typename V>
struct LoadF16 {
  static constexpr std::int64_t kBytes = 2;
  static typename V::Type full(const std::uint8_t* p) { return V::load_f16(p); }
  static typename V::Type part(const std::uint8_t* p, std::int64_t n) {
    std::uint8_t padded[2 * V::kLanes] = {};
    __builtin_memcpy(padded, p, static_cast<std::size_t>(2 * n));
    return V::load_f16(padded);
  }
};

template <typename V>
struct LoadBf16 {
  static constexpr std::int64_t kBytes = 2;
  static typename V::Type full(const std::uint8_t* p) { return V::load_bf16(p); }
  static typename V::Type part(const std::uint8_t* p, std::int64_t n) {
    std::uint8_t padded[2 * V::kLanes] = {};
    __builtin_memcpy(padded, p, static_cast<std::size_t>(2 * n));
    return V::load_bf16(padded);
  }
};

// kRows weight rows times kTokens input rows.
template <typename V, typename Load, int kRows, int kTokens>
inline __attribute__((always_inline)) void float_tile(const std::uint8_t* weights,
                                                      std::int64_t row_bytes,
                                                      const float* x,
                                                      std::int64_t stride,
                                                      std::int64_t columns,
                                                      float* y,
                                                      std::int64_t y_stride) {
  using Type = typename V::Type;
  Type sums[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sums[r][t] = V::zero();
  }
  const std::int64_t whole = columns / V::kLanes * V::kLanes;
  // Weights of a single token come from memory, and several rows at once are more than the
  // processor follows by itself: short rows ask for those of the next tile, long ones for what is
  // ahead.
  constexpr std::int64_t kShortRow = 2048;
  constexpr std::int64_t kAhead = 1024;
  const std::int64_t ahead = row_bytes <= kShortRow ? kRows * row_bytes : kAhead;
  for (std::int64_t i = 0; i < whole; i += V::kLanes) {
    if constexpr (kTokens == 1) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
        __builtin_prefetch(weights + r * row_bytes + i * Load::kBytes + ahead);
    }
    Type w[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) w[r] = Load::full(weights + r * row_bytes + i * Load::kBytes);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const Type value = V::load(x + t * stride + i);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r][t] = V::fma(w[r], value, sums[r][t]);
    }
  }
  if (whole < columns) {
    const std::int64_t rest = columns - whole;
    for (int r = 0; r < kRows; ++r) {
      const Type w = Load::part(weights + r * row_bytes + whole * Load::kBytes, rest);
      for (int t = 0; t < kTokens; ++t) {
        sums[r][t] = V::fma(w, V::load_part(x + t * stride + whole, rest), sums[r][t]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) y[t * y_stride + r] = V::sum(sums[r][t]);
  }
}

template <typename V, typename Load, int kTokens>
void float_rows(const std::uint8_t* weights,
                std::int64_t row_bytes,
                std::int64_t rows,
                const float* x,
                std::int64_t stride,
                std::int64_t columns,
                float* y,
                std::int64_t y_stride) {
  std::int64_t r = 0;
  for (; r + V::kRows <= rows; r += V::kRows) {
    float_tile<V, Load, V::kRows, kTokens>(
        weights + r * row_bytes, row_bytes, x, stride, columns, y + r, y_stride);
  }
  for (; r < rows; ++r) {
    float_tile<V, Load, 1, kTokens>(
        weights + r * row_bytes, row_bytes, x, stride, columns, y + r, y_stride);
  }
}

template <typename V, typename Load>
void float_matmul(const WeightRows& weights,
                  const MatmulInput& input,
                  float* y,
                  std::int64_t y_stride) {
  const auto* data = static_cast<const std::uint8_t*>(weights.data);
  const std::int64_t columns = input.columns;
  // Input rows that stay in the second-level cache while all weight rows of this piece pass by.
  constexpr std::int64_t kTileBytes = 192 * 1024;
  std::int64_t tile = kTileBytes / 4 / (columns > 0 ? columns : 1) / V::kTokens * V::kTokens;
  if (tile < V::kTokens) tile = V::kTokens;
  for (std::int64_t t0 = 0; t0 < input.tokens; t0 += tile) {
    const std::int64_t t1 = t0 + tile < input.tokens ? t0 + tile : input.tokens;
    constexpr std::int64_t kGroup =
        16;  // weight rows that stay in the first-level cache while the tile passes by
    for (std::int64_t r = 0; r < weights.rows; r += kGroup) {
      const std::int64_t rows = weights.rows - r < kGroup ? weights.rows - r : kGroup;
      const std::uint8_t* w = data + r * weights.row_bytes;
      std::int64_t t = t0;
      for (; t + V::kTokens <= t1; t += V::kTokens) {
        float_rows<V, Load, V::kTokens>(w,
                                        weights.row_bytes,
                                        rows,
                                        input.values + t * input.stride,
                                        input.stride,
                                        columns,
                                        y + t * y_stride + r,
                                        y_stride);
      }
      for (; t < t1; ++t) {
        float_rows<V, Load, 1>(w,
                               weights.row_bytes,
                               rows,
                               input.values + t * input.stride,
                               input.stride,
                               columns,
                               y + t * y_stride + r,
                               y_stride);
      }
    }
  }
}

// e^x to about one unit in the last place: 2^n e^r with |r| <= ln 2 / 2 and a polynomial of
// degree 6.
template <typename V>
inline typename V::Type exponential(typename V::Type x) {
  using Type = typename V::Type;
  x = V::max(x, V::set1(-87.0F));
  x = V::min(x, V::set1(88.0F));
  const Type n = V::round(V::mul(x, V::set1(1.44269504088896341F)));
  Type r = V::fma(n, V::set1(-0.693359375F), x);
  r = V::fma(n, V::set1(2.12194440e-4F), r);
  Type p = V::set1(1.9875691500e-4F);
  p = V::fma(p, r, V::set1(1.3981999507e-3F));
  p = V::fma(p, r, V::set1(8.3334519073e-3F));
  p = V::fma(p, r, V::set1(4.1665795894e-2F));
  p = V::fma(p, r, V::set1(1.6666665459e-1F));
  p = V::fma(p, r, V::set1(5.0000001201e-1F));
  p = V::fma(p, V::mul(r, r), V::add(r, V::set1(1.0F)));
  return V::mul(p, V::pow2(n));
}

template <typename V>
inline typename V::Type sigmoid(typename V::Type x) {
  const auto one = V::set1(1.0F);
  return V::div(one, V::add(one, exponential<V>(V::sub(V::zero(), x))));
}

// erf by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7: the float32 noise of a value
// near one.
template <typename V>
inline typename V::Type error_function(typename V::Type x) {
  using Type = typename V::Type;
  const Type one = V::set1(1.0F);
  const Type magnitude = V::abs(x);
  const Type t = V::div(one, V::fma(magnitude, V::set1(0.3275911F), one));
  Type p = V::set1(1.061405429F);
  p = V::fma(p, t, V::set1(-1.453152027F));
  p = V::fma(p, t, V::set1(1.421413741F));
  p = V::fma(p, t, V::set1(-0.284496736F));
  p = V::fma(p, t, V::set1(0.254829592F));
  p = V::mul(p, t);
  const Type gauss = exponential<V>(V::sub(V::zero(), V::mul(x, x)));
  const Type positive = V::sub(one, V::mul(p, gauss));
  return V::select_negative(x, V::sub(V::zero(), positive), positive);
}

template <typename V, typename Function>
inline void for_vectors(std::int64_t n, const Function& function) {
  std::int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) function(i, std::int64_t{V::kLanes});
  if (i < n) function(i, n - i);
}

template <typename V>
inline typename V::Type load_some(const float* p, std::int64_t n) {
  return n == V::kLanes ? V::load(p) : V::load_part(p, n);
}

template <typename V>
inline void store_some(float* p, typename V::Type v, std::int64_t n) {
  if (n == V::kLanes)
    V::store(p, v);
  else
    V::store_part(p, v, n);
}

template <typename V>
void vector_softmax(float* x, std::int64_t n, float scale) {
  using Type = typename V::Type;
  const Type factor = V::set1(scale);
  Type top = V::set1(-3.0e38F);
  std::int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) top = V::max(top, V::mul(factor, V::load(x + i)));
  float largest = V::largest(top);
  for (; i < n; ++i) largest = scale * x[i] > largest ? scale * x[i] : largest;
  const Type shift = V::set1(largest);
  Type total = V::zero();
  float rest_sum = 0.0F;
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    const Type value = exponential<V>(V::sub(V::mul(factor, load_some<V>(x + at, count)), shift));
    store_some<V>(x + at, value, count);
    if (count == V::kLanes)
      total = V::add(total, value);
    else
      for (std::int64_t k = at; k < n; ++k) rest_sum += x[k];
  });
  const Type inverse = V::set1(1.0F / (V::sum(total) + rest_sum));
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    store_some<V>(x + at, V::mul(load_some<V>(x + at, count), inverse), count);
  });
}

template <typename V>
void vector_silu_multiply(float* gate, const float* up, std::int64_t n) {
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    const auto g = load_some<V>(gate + at, count);
    store_some<V>(gate + at, V::mul(V::mul(g, sigmoid<V>(g)), load_some<V>(up + at, count)), count);
  });
}

template <typename V>
void vector_activate(MobileActivation activation, float* x, std::int64_t n) {
  const auto half = V::set1(0.5F);
  const auto one = V::set1(1.0F);
  switch (activation) {
    case MobileActivation::kGeluTanh:
      for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
        const auto v = load_some<V>(x + at, count);
        const auto cube = V::mul(V::mul(v, v), v);
        const auto inner =
            V::mul(V::set1(0.79788456080286535588F), V::fma(V::set1(0.044715F), cube, v));
        // 0.5 (1 + tanh(z)) = sigmoid(2 z)
        store_some<V>(x + at, V::mul(v, sigmoid<V>(V::add(inner, inner))), count);
      });
      return;
    case MobileActivation::kGeluErf:
      for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
        const auto v = load_some<V>(x + at, count);
        const auto erf = error_function<V>(V::mul(v, V::set1(0.70710678118654752440F)));
        store_some<V>(x + at, V::mul(V::mul(half, v), V::add(one, erf)), count);
      });
      return;
    case MobileActivation::kQuickGelu:
    case MobileActivation::kSilu: {
      const auto slope = V::set1(activation == MobileActivation::kSilu ? 1.0F : 1.702F);
      for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
        const auto v = load_some<V>(x + at, count);
        store_some<V>(x + at, V::mul(v, sigmoid<V>(V::mul(slope, v))), count);
      });
      return;
    }
  }
}

template <typename V>
void vector_rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* y) {
  auto squares = V::zero();
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    const auto v = load_some<V>(x + at, count);
    squares = V::fma(v, v, squares);
  });
  const auto inverse =
      V::set1(1.0F / __builtin_sqrtf(V::sum(squares) / static_cast<float>(n) + eps));
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    store_some<V>(
        y + at,
        V::mul(V::mul(load_some<V>(x + at, count), inverse), load_some<V>(weight + at, count)),
        count);
  });
}

template <typename V>
void vector_layer_norm(
    const float* x, const float* weight, const float* bias, std::int64_t n, float eps, float* y) {
  auto total = V::zero();
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    total = V::add(total, load_some<V>(x + at, count));
  });
  const float mean = V::sum(total) / static_cast<float>(n);
  const auto centre = V::set1(mean);
  auto squares = V::zero();
  float rest = 0.0F;
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    if (count == V::kLanes) {
      const auto v = V::sub(V::load(x + at), centre);
      squares = V::fma(v, v, squares);
    } else {
      for (std::int64_t i = at; i < n; ++i) rest += (x[i] - mean) * (x[i] - mean);
    }
  });
  const auto inverse =
      V::set1(1.0F / __builtin_sqrtf((V::sum(squares) + rest) / static_cast<float>(n) + eps));
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    const auto v = V::mul(V::sub(load_some<V>(x + at, count), centre), inverse);
    store_some<V>(
        y + at, V::fma(v, load_some<V>(weight + at, count), load_some<V>(bias + at, count)), count);
  });
}

template <typename V>
void vector_add_scaled(const float* x, float scale, std::int64_t n, float* y) {
  const auto factor = V::set1(scale);
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    store_some<V>(
        y + at, V::fma(factor, load_some<V>(x + at, count), load_some<V>(y + at, count)), count);
  });
}

template <typename V>
void vector_to_half(const float* x, std::int64_t n, std::uint16_t* halves) {
  for_vectors<V>(n, [&](std::int64_t at, std::int64_t count) {
    std::uint16_t some[V::kLanes];
    V::store_halves(some, load_some<V>(x + at, count));
    __builtin_memcpy(halves + at, some, static_cast<std::size_t>(2 * count));
  });
}

}  // namespace
}  // namespace pocketvlm
