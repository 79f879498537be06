#pragma once

#include <cstdint>
#include <cstring>

#include "model/kernels/kernels.h"

/// As many floats as one register holds, by the compiler's vector extension: 16 with AVX-512, 8 with AVX2, 4 with SSE or
/// NEON. Everything here has internal linkage, because each including file is compiled for other instructions.
namespace pocketvlm::kernels {
namespace {

#define POCKETVLM_INLINE [[gnu::always_inline, maybe_unused]] static inline

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));
using Words = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using Halves = std::uint16_t __attribute__((vector_size(2 * kLanes)));

struct Bf16 {
  std::uint16_t bits;
};

POCKETVLM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

POCKETVLM_INLINE Floats broadcast(float x) { return Floats{} + x; }

POCKETVLM_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
POCKETVLM_INLINE Floats load(const Bf16* p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof(halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  return reinterpret_cast<Floats>(words);
}
POCKETVLM_INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof(v)); }
POCKETVLM_INLINE void store(Bf16* p, Floats v) {
  const Words words = reinterpret_cast<Words>(v);
  const Words rounded = (words + 0x7fffU + ((words >> 16) & 1U)) >> 16;  // to nearest, ties to even
  const Halves halves = __builtin_convertvector(rounded, Halves);
  std::memcpy(p, &halves, sizeof(halves));
}

/// The first n < kLanes elements; the others are zero.
template <typename T>
POCKETVLM_INLINE Floats load_part(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
template <typename T>
POCKETVLM_INLINE void store_part(T* p, Floats v, int64_t n) {
  T buffer[kLanes];
  store(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

POCKETVLM_INLINE float sum(Floats v) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return v[0];
}
POCKETVLM_INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
POCKETVLM_INLINE Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
POCKETVLM_INLINE float largest(Floats v) {
  float best = v[0];
  for (int64_t i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

/// e^x to two units in the last place; below -87 it is 0, above 88 it stays at e^88.
POCKETVLM_INLINE Floats exponential(Floats x) {
  const Floats clamped = minimum(maximum(x, broadcast(-87.0F)), broadcast(88.0F));
  const Floats magic = broadcast(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Floats shifted = clamped * 1.44269504088896341F + magic;
  const Floats n = shifted - magic;
  // ln 2 in two parts, so that the remainder keeps its bits (Cody and Waite).
  const Floats r = clamped - n * 0.693359375F + n * 2.12194440e-4F;
  Floats p = broadcast(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) << 23);
  const Ints scaled = reinterpret_cast<Ints>(p) + exponent;
  const Floats result = reinterpret_cast<Floats>(scaled);
  return x < -87.0F ? Floats{} : result;
}

/// Transposes the square that as many vectors as lanes form: perfect shuffles of the rows, once per bit of the lane number.
POCKETVLM_INLINE void transpose_square(Floats (&rows)[kLanes]) {
  Ints low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2 + (i % 2) * static_cast<int>(kLanes);
    high[i] = low[i] + static_cast<int>(kLanes) / 2;
  }
  for (int64_t stage = 1; stage < kLanes; stage *= 2) {
    Floats shuffled[kLanes];
    for (int64_t i = 0; i < kLanes / 2; ++i) {
      shuffled[2 * i] = __builtin_shuffle(rows[i], rows[i + kLanes / 2], low);
      shuffled[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kLanes / 2], high);
    }
    for (int64_t i = 0; i < kLanes; ++i) rows[i] = shuffled[i];
  }
}

/// Calls f(offset, n) for whole vectors (n = kLanes), then for the rest (n < kLanes).
template <typename F>
POCKETVLM_INLINE void for_lanes(int64_t size, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) f(i, kLanes);
  if (i < size) f(i, size - i);
}
template <typename T>
POCKETVLM_INLINE Floats load_lanes(const T* p, int64_t n) {
  return n == kLanes ? load(p) : load_part(p, n);
}
template <typename T>
POCKETVLM_INLINE void store_lanes(T* p, Floats v, int64_t n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

}  // namespace
}  // namespace pocketvlm::kernels
