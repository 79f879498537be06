#pragma once

#include <immintrin.h>

/// Included by files compiled with AVX-512, hence internal linkage.
namespace pocketvlm {
namespace {

/// Row i, lane j -> row j, lane i.
inline void transpose(__m512i (&rows)[16]) {
  __m512i other[16];
  for (int i = 0; i < 16; i += 2) {
    other[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    other[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int h = 0; h < 2; ++h) {
      rows[i + 2 * h] = _mm512_unpacklo_epi64(other[i + h], other[i + h + 2]);
      rows[i + 2 * h + 1] = _mm512_unpackhi_epi64(other[i + h], other[i + h + 2]);
    }
  }
  // Now row 4 q + c holds, in its quarters k, lanes 4 k + c of rows 4 q .. 4 q + 3.
  for (int c = 0; c < 4; ++c) {
    other[c] = _mm512_shuffle_i32x4(rows[c], rows[c + 4], 0x88);
    other[c + 4] = _mm512_shuffle_i32x4(rows[c], rows[c + 4], 0xDD);
    other[c + 8] = _mm512_shuffle_i32x4(rows[c + 8], rows[c + 12], 0x88);
    other[c + 12] = _mm512_shuffle_i32x4(rows[c + 8], rows[c + 12], 0xDD);
  }
  for (int c = 0; c < 4; ++c) {
    rows[c] = _mm512_shuffle_i32x4(other[c], other[c + 8], 0x88);
    rows[c + 8] = _mm512_shuffle_i32x4(other[c], other[c + 8], 0xDD);
    rows[c + 4] = _mm512_shuffle_i32x4(other[c + 4], other[c + 12], 0x88);
    rows[c + 12] = _mm512_shuffle_i32x4(other[c + 4], other[c + 12], 0xDD);
  }
}

}  // namespace
}  // namespace pocketvlm
