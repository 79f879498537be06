#pragma once

#include <immintrin.h>

/// Floats as pairs of bfloat16, which AMX multiplies. Included by files compiled with AVX-512 and AVX512_BF16, hence internal linkage.
namespace pocketvlm {
namespace {

/// Thirty-two neighbouring floats, rounded half to even, in their order.
inline __m512i pairs_of(__m512 first, __m512 second) {
  const __m512bh pairs = _mm512_cvtne2ps_pbh(second, first);
  __m512i bits;
  __builtin_memcpy(&bits, &pairs, sizeof(bits));
  return bits;
}

}  // namespace
}  // namespace pocketvlm
