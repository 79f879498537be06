#include "base/amx_tiles.h"
#include "mobile/kernels_simd.h"
#include "mobile/pairs512.h"
#include "mobile/transpose512.h"
#include "mobile/vector512.h"
#include "mobile/vector_kernels.h"

// Attention of a prompt over an F16 cache through AMX. Its tiles multiply bfloat16 alone, so each
// number goes as a sum of two of them: all 11 bits of a half, 16 of a float32. Of the four products
// the one of the two small parts is left out: the error stays that of float32 sums. Keys and values
// come block by block, and the softmax runs along (Milakov and Gimelshein, 2018), so that memory
// does not grow with the context. Compiled as attention_amx.cc: nothing with external linkage but
// the function of kernels_simd.h.
namespace pocketvlm {
namespace {

constexpr int kLanes = 16;
constexpr std::int64_t kStep = 32;         // bfloat16 of a row of a tile
constexpr std::int64_t kPairs = kStep / 2;
constexpr std::int64_t kBlockKeys = 512;   // keys and values of a block stay in the second-level cache
constexpr int kPanels = 4;                 // sums side by side

using Pair = std::uint32_t;  // two neighbouring bfloat16 of a sum

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }
std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

float exponential_of(float x) {
  return _mm512_cvtss_f32(exponential<Vector512>(_mm512_set1_ps(x)));
}

// 32 neighbouring numbers as pairs: large parts, and what they leave.
struct Split {
  __m512i large;
  __m512i small;
};

inline __m512 widen(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline Split split(__m512 first, __m512 second) {
  const __m512i large = pairs_of(first, second);
  const __m512 first_left = _mm512_sub_ps(first, widen(_mm512_castsi512_si256(large)));
  const __m512 second_left = _mm512_sub_ps(second, widen(_mm512_extracti64x4_epi64(large, 1)));
  return {large, pairs_of(first_left, second_left)};
}

// Both parts of a matrix, each in one layout.
struct Parts {
  Pair* large;
  Pair* small;

  Parts at(std::int64_t offset) const { return {large + offset, small + offset}; }
};

// rows [count, n] of floats as [kTileRows, pairs]; zero beyond.
void split_rows(
    const float* x, std::int64_t stride, std::int64_t count, std::int64_t n, Parts out) {
  const std::int64_t pairs = round_up(n, kStep) / 2;
  for (std::int64_t r = 0; r < kTileRows; ++r) {
    for (std::int64_t i = 0; i < n; i += kStep) {
      const float* at = x + r * stride + i;
      const std::int64_t left = r < count ? n - i : 0;
      const Split parts = split(_mm512_maskz_loadu_ps(first_lanes(left), at),
                                _mm512_maskz_loadu_ps(first_lanes(left - kLanes), at + kLanes));
      _mm512_storeu_si512(out.large + r * pairs + i / 2, parts.large);
      _mm512_storeu_si512(out.small + r * pairs + i / 2, parts.small);
    }
  }
}

// rows [count, n] of halves as panels of 16 of them, [pairs][16]; zero beyond.
void split_panels(const std::uint16_t* halves,
                  std::int64_t stride,
                  std::int64_t count,
                  std::int64_t n,
                  Parts out) {
  const std::int64_t pairs = round_up(n, kStep) / 2;
  for (std::int64_t first = 0; first < count; first += kLanes) {
    const Parts panel = out.at(first * pairs);
    for (std::int64_t i = 0; i < n; i += kStep) {
      __m512i large[kLanes];
      __m512i small[kLanes];
      for (std::int64_t r = 0; r < kLanes; ++r) {
        const std::uint16_t* at = halves + (first + r) * stride + i;
        const std::int64_t left = first + r < count ? n - i : 0;
        const Split parts =
            split(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(left), at)),
                  _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(left - kLanes), at + kLanes)));
        large[r] = parts.large;
        small[r] = parts.small;
      }
      transpose(large);
      transpose(small);
      for (std::int64_t j = 0; j < kPairs; ++j) {
        _mm512_storeu_si512(panel.large + (i / 2 + j) * kLanes, large[j]);
        _mm512_storeu_si512(panel.small + (i / 2 + j) * kLanes, small[j]);
      }
    }
  }
}

// Tile kSum += both parts of tiles 4 and 5 (rows) times those of a panel.
template <int kSum>
inline void add_product(Parts panel) {
  load_tile<6>(panel.large, kTileRowBytes);
  dot_bf16<kSum, 4, 6>();
  dot_bf16<kSum, 5, 6>();
  load_tile<7>(panel.small, kTileRowBytes);
  dot_bf16<kSum, 4, 7>();
}

template <int kCount>
void multiply_panels(Parts panels,
                     std::int64_t panel_pairs,
                     Parts rows,
                     std::int64_t row_pairs,
                     std::int64_t pairs,
                     float* y,
                     std::int64_t y_bytes) {
  clear_tile<0>();
  if constexpr (kCount > 1) {
    clear_tile<1>();
    clear_tile<2>();
    clear_tile<3>();
  }
  for (std::int64_t i = 0; i < pairs; i += kPairs) {
    load_tile<4>(rows.large + i, 4 * row_pairs);
    load_tile<5>(rows.small + i, 4 * row_pairs);
    const auto part = [&](std::int64_t p) { return panels.at((p * panel_pairs + i) * kLanes); };
    add_product<0>(part(0));
    if constexpr (kCount > 1) {
      add_product<1>(part(1));
      add_product<2>(part(2));
      add_product<3>(part(3));
    }
  }
  store_tile<0>(y, y_bytes);
  if constexpr (kCount > 1) {
    store_tile<1>(y + kLanes, y_bytes);
    store_tile<2>(y + 2 * kLanes, y_bytes);
    store_tile<3>(y + 3 * kLanes, y_bytes);
  }
}

// y [16, 16 count] = the first `pairs` of rows [16, row_pairs] times panels [panel_pairs][16].
void multiply(Parts panels,
              std::int64_t panel_pairs,
              std::int64_t count,
              Parts rows,
              std::int64_t row_pairs,
              std::int64_t pairs,
              float* y,
              std::int64_t y_stride) {
  std::int64_t p = 0;
  for (; p + kPanels <= count; p += kPanels) {
    multiply_panels<kPanels>(panels.at(p * panel_pairs * kLanes),
                             panel_pairs,
                             rows,
                             row_pairs,
                             pairs,
                             y + p * kLanes,
                             4 * y_stride);
  }
  for (; p < count; ++p) {
    multiply_panels<1>(panels.at(p * panel_pairs * kLanes),
                       panel_pairs,
                       rows,
                       row_pairs,
                       pairs,
                       y + p * kLanes,
                       4 * y_stride);
  }
}

float largest(const float* scores, std::int64_t n, float scale, float least) {
  using V = Vector512;
  const __m512 factor = V::set1(scale);
  __m512 top = V::set1(least);
  for (std::int64_t i = 0; i < n; i += kLanes)
    top = _mm512_mask_max_ps(top, first_lanes(n - i), top, V::mul(factor, V::load(scores + i)));
  return V::largest(top);
}

// e^(scale x - shift) of n scores, zero up to `padded`, as both parts; returns their sum.
float exponentials(const float* scores,
                   std::int64_t n,
                   std::int64_t padded,
                   float scale,
                   float shift,
                   Parts out) {
  using V = Vector512;
  const __m512 factor = V::set1(scale);
  const __m512 offset = V::set1(shift);
  __m512 total = V::zero();
  const auto value = [&](std::int64_t i) {
    const __m512 power = V::sub(V::mul(factor, V::load(scores + i)), offset);
    return _mm512_maskz_mov_ps(first_lanes(n - i), exponential<V>(power));
  };
  for (std::int64_t i = 0; i < padded; i += kStep) {
    const __m512 first = i < n ? value(i) : V::zero();
    const __m512 second = i + kLanes < n ? value(i + kLanes) : V::zero();
    total = V::add(total, V::add(first, second));
    const Split parts = split(first, second);
    _mm512_storeu_si512(out.large + i / 2, parts.large);
    _mm512_storeu_si512(out.small + i / 2, parts.small);
  }
  return V::sum(total);
}

class Attention {
 public:
  explicit Attention(const CausalHead& head)
      : head_(head),
        groups_((head.queries + kTileRows - 1) / kTileRows),
        channels_(round_up(head.head_dim, kLanes)),
        pairs_(round_up(head.head_dim, kStep) / 2) {
    const std::int64_t rows = groups_ * kTileRows;
    // In units of four bytes.
    const std::int64_t sizes[] = {rows * pairs_, kBlockKeys * pairs_, channels_ * kBlockKeys / 2,
                                  kTileRows * kBlockKeys / 2};
    std::int64_t total = rows * (channels_ + 2) + kTileRows * (kBlockKeys + channels_);
    for (const std::int64_t size : sizes) total += 2 * size;
    auto* scratch = static_cast<Pair*>(panel_scratch(static_cast<std::size_t>(total) * 4));
    const auto take = [&scratch](std::int64_t size) {
      Pair* at = scratch;
      scratch += size;
      return at;
    };
    const auto take_parts = [&](std::int64_t size) {
      Pair* large = take(size);
      return Parts{large, take(size)};
    };
    queries_ = take_parts(sizes[0]);
    keys_ = take_parts(sizes[1]);
    values_ = take_parts(sizes[2]);
    weights_ = take_parts(sizes[3]);
    scores_ = reinterpret_cast<float*>(take(kTileRows * kBlockKeys));
    mixed_ = reinterpret_cast<float*>(take(kTileRows * channels_));
    totals_ = reinterpret_cast<float*>(take(rows * channels_));
    tops_ = reinterpret_cast<float*>(take(rows));
    sums_ = reinterpret_cast<float*>(take(rows));
  }

  void run() {
    for (std::int64_t g = 0; g < groups_; ++g) {
      const std::int64_t first = g * kTileRows;
      split_rows(head_.q + first * head_.stride,
                 head_.stride,
                 head_.queries - first,
                 head_.head_dim,
                 queries_.at(first * pairs_));
    }
    for (std::int64_t i = 0; i < groups_ * kTileRows * channels_; ++i) totals_[i] = 0.0F;
    for (std::int64_t i = 0; i < groups_ * kTileRows; ++i) {
      tops_[i] = -3.0e38F;
      sums_[i] = 0.0F;
    }
    const std::int64_t all = seen(head_.queries - 1);
    for (std::int64_t begin = 0; begin < all; begin += kBlockKeys) {
      const std::int64_t keys = smaller(kBlockKeys, all - begin);
      split_panels(
          head_.keys + begin * head_.head_dim, head_.head_dim, keys, head_.head_dim, keys_);
      split_panels(head_.values + begin, head_.value_stride, head_.head_dim, keys, values_);
      for (std::int64_t g = 0; g < groups_; ++g) add_block(g * kTileRows, begin, keys);
    }
    for (std::int64_t t = 0; t < head_.queries; ++t) {
      const __m512 inverse = _mm512_set1_ps(1.0F / sums_[t]);
      for (std::int64_t c = 0; c < head_.head_dim; c += kLanes) {
        const __m512 total = _mm512_loadu_ps(totals_ + t * channels_ + c);
        _mm512_mask_storeu_ps(head_.out + t * head_.stride + c,
                              first_lanes(head_.head_dim - c),
                              _mm512_mul_ps(total, inverse));
      }
    }
  }

 private:
  std::int64_t seen(std::int64_t query) const { return head_.first_seen + query; }

  // Keys [begin, begin + keys) for 16 queries.
  void add_block(std::int64_t first, std::int64_t begin, std::int64_t keys) {
    const std::int64_t rows = smaller(kTileRows, head_.queries - first);
    const std::int64_t visible = smaller(keys, seen(first + rows - 1) - begin);
    if (visible <= 0) return;
    const std::int64_t value_pairs = round_up(keys, kStep) / 2;
    const std::int64_t padded = round_up(visible, kStep);
    multiply(keys_,
             pairs_,
             round_up(visible, kLanes) / kLanes,
             queries_.at(first * pairs_),
             pairs_,
             pairs_,
             scores_,
             kBlockKeys);
    float rescales[kTileRows];
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t left = seen(first + r) - begin;
      const std::int64_t n = left < 0 ? 0 : smaller(left, visible);
      const float* scores = scores_ + r * kBlockKeys;
      float& top = tops_[first + r];
      const float old = top;
      top = largest(scores, n, head_.scale, old);
      rescales[r] = exponential_of(old - top);
      const float sum = exponentials(
          scores, n, padded, head_.scale, top, weights_.at(r * kBlockKeys / 2));
      sums_[first + r] = sums_[first + r] * rescales[r] + sum;
    }
    multiply(values_,
             value_pairs,
             channels_ / kLanes,
             weights_,
             kBlockKeys / 2,
             padded / 2,
             mixed_,
             channels_);
    for (std::int64_t r = 0; r < rows; ++r) {
      const __m512 rescale = _mm512_set1_ps(rescales[r]);
      float* totals = totals_ + (first + r) * channels_;
      for (std::int64_t c = 0; c < channels_; c += kLanes) {
        const __m512 added = _mm512_loadu_ps(mixed_ + r * channels_ + c);
        _mm512_storeu_ps(totals + c,
                         _mm512_fmadd_ps(_mm512_loadu_ps(totals + c), rescale, added));
      }
    }
  }

  const CausalHead& head_;
  std::int64_t groups_;
  std::int64_t channels_;  // whole panels
  std::int64_t pairs_;     // of a row of queries or keys, whole tiles
  Parts queries_;          // [groups, 16, pairs]
  Parts keys_;             // panels of 16 keys
  Parts values_;           // panels of 16 channels
  Parts weights_;          // [16, kBlockKeys / 2]
  float* scores_;          // [16, kBlockKeys]
  float* mixed_;           // [16, channels]
  float* totals_;          // [groups * 16, channels]
  float* tops_;            // [groups * 16]
  float* sums_;
};

}  // namespace

void amx_attend_causal(const CausalHead& head) {
  static constexpr TileShapes kShapes = whole_tiles();
  const TileSession session(kShapes);
  Attention(head).run();
}

}  // namespace pocketvlm
