#include <algorithm>
#include <cmath>

#include "mobile/block_formats.h"
#include "mobile/quants.h"

// The scale searches of the 256-element blocks follow the format's reference step for step in
// float32, so that our blocks equal its blocks byte for byte; the order of the sums matters.
// Compiled without fused multiply-add.
namespace pocketvlm {
namespace {

// Half to even, for magnitudes below 2^22; one addition instead of a library call.
int round_even(float value) {
  constexpr float kMagic = 12582912.0F;
  return static_cast<int>((value + kMagic) - kMagic);
}

constexpr float kNothing = 1e-15F;  // a group smaller than this is stored as zeros

struct Affine {
  float scale;
  float min;  // subtracted: x = scale q - min, min >= 0
};

// x ~ scale * q - min for 32 values, q in 0..levels, by weighted least squares over a few starting
// scales.
Affine search_affine(const float* x,
                     const float* weights,
                     int levels,
                     float first_step,
                     int steps,
                     std::uint8_t* q) {
  constexpr int kSize = 32;
  float min = x[0];
  float max = x[0];
  float sum_w = weights[0];
  float sum_x = sum_w * x[0];
  for (int i = 1; i < kSize; ++i) {
    min = std::min(min, x[i]);
    max = std::max(max, x[i]);
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  min = std::min(min, 0.0F);
  if (max == min) {
    std::fill(q, q + kSize, std::uint8_t{0});
    return {0.0F, -min};
  }
  float iscale = static_cast<float>(levels) / (max - min);
  float scale = 1.0F / iscale;
  float best = 0.0F;
  for (int i = 0; i < kSize; ++i) {
    q[i] = static_cast<std::uint8_t>(std::clamp(round_even(iscale * (x[i] - min)), 0, levels));
    const float error = scale * static_cast<float>(q[i]) + min - x[i];
    best += weights[i] * (error * error);
  }
  std::uint8_t trial[kSize];
  for (int step = 0; step <= steps; ++step) {
    iscale =
        (first_step + 0.1F * static_cast<float>(step) + static_cast<float>(levels)) / (max - min);
    float sum_q = 0.0F;
    float sum_qq = 0.0F;
    float sum_xq = 0.0F;
    for (int i = 0; i < kSize; ++i) {
      const int level = std::clamp(round_even(iscale * (x[i] - min)), 0, levels);
      trial[i] = static_cast<std::uint8_t>(level);
      const auto value = static_cast<float>(level);
      sum_q += weights[i] * value;
      sum_qq += weights[i] * value * value;
      sum_xq += weights[i] * value * x[i];
    }
    const float determinant = sum_w * sum_qq - sum_q * sum_q;
    if (!(determinant > 0.0F)) continue;
    float trial_scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
    float trial_min = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
    if (trial_min > 0.0F) {
      trial_min = 0.0F;
      trial_scale = sum_xq / sum_qq;
    }
    float total = 0.0F;
    for (int i = 0; i < kSize; ++i) {
      const float error = trial_scale * static_cast<float>(trial[i]) + trial_min - x[i];
      total += weights[i] * (error * error);
    }
    if (total < best) {
      std::copy(trial, trial + kSize, q);
      best = total;
      scale = trial_scale;
      min = trial_min;
    }
  }
  return {scale, -min};
}

// Weight of each value's error: the reference takes rms + |x|; known importance multiplies the
// spread-aware magnitude, as its importance-aware quantizers do.
void error_weights(const float* x, const float* importance, float row_mean_square, float* weights) {
  if (importance != nullptr) {
    for (int i = 0; i < 32; ++i)
      weights[i] = importance[i] * std::sqrt(row_mean_square + x[i] * x[i]);
    return;
  }
  float sum = 0.0F;
  for (int i = 0; i < 32; ++i) sum += x[i] * x[i];
  const float rms = std::sqrt(sum / 32.0F);
  for (int i = 0; i < 32; ++i) weights[i] = rms + std::fabs(x[i]);
}

// Shared by Q4_K and Q5_K: 8 sub-blocks, 6-bit scales and mins. Leaves the levels in q[256].
template <typename Block>
void quantize_affine(const float* x,
                     const float* importance,
                     int levels,
                     float first_step,
                     int steps,
                     Block& block,
                     std::uint8_t* q) {
  float mean_square = 0.0F;
  for (int i = 0; i < 256; ++i) mean_square += x[i] * x[i] / 256.0F;
  Affine found[8];
  float max_scale = 0.0F;
  float max_min = 0.0F;
  for (int j = 0; j < 8; ++j) {
    float weights[32];
    error_weights(
        x + 32 * j, importance != nullptr ? importance + 32 * j : nullptr, mean_square, weights);
    found[j] = search_affine(x + 32 * j, weights, levels, first_step, steps, q + 32 * j);
    max_scale = std::max(max_scale, found[j].scale);
    max_min = std::max(max_min, found[j].min);
  }
  const float inverse_scale = max_scale > 0.0F ? 63.0F / max_scale : 0.0F;
  const float inverse_min = max_min > 0.0F ? 63.0F / max_min : 0.0F;
  std::fill(block.scales, block.scales + 12, std::uint8_t{0});
  for (int j = 0; j < 8; ++j) {
    // A negative least-squares scale would wrap in the 6 bits; it can only come from degenerate
    // weights.
    const int scale = std::clamp(round_even(inverse_scale * found[j].scale), 0, 63);
    const int min = std::clamp(round_even(inverse_min * found[j].min), 0, 63);
    pack_scale_min(block.scales, j, {scale, min});
  }
  block.d = float_to_half(max_scale / 63.0F);
  block.dmin = float_to_half(max_min / 63.0F);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin pair = unpack_scale_min(block.scales, j);
    const float d = half_to_float(block.d) * static_cast<float>(pair.scale);
    if (d == 0.0F) continue;
    const float min = half_to_float(block.dmin) * static_cast<float>(pair.min);
    for (int l = 32 * j; l < 32 * j + 32; ++l) {
      q[l] = static_cast<std::uint8_t>(std::clamp(round_even((x[l] + min) / d), 0, levels));
    }
  }
}

// Scale of 16 values on the grid -32..31 by weighted least squares; 0 for a vanishing group.
float search_symmetric(const float* x, const float* importance, std::int8_t* q) {
  constexpr int kSize = 16;
  constexpr int kLevels = 32;
  float largest = 0.0F;
  float extreme = 0.0F;
  for (int i = 0; i < kSize; ++i) {
    if (std::fabs(x[i]) > largest) {
      largest = std::fabs(x[i]);
      extreme = x[i];
    }
  }
  if (largest < kNothing) {
    // Any level means zero here; the reference stores the lowest.
    std::fill(q, q + kSize, static_cast<std::int8_t>(-kLevels));
    return 0.0F;
  }
  const auto weight = [&](int i) { return importance != nullptr ? importance[i] : x[i] * x[i]; };
  float scale = 0.0F;
  float best = 0.0F;
  for (int trial = 0; trial < 19; ++trial) {
    // First the plain scale, then -0.9 .. 0.9 beside it without 0.
    const int shift = trial == 0 ? 0 : (trial <= 9 ? trial - 10 : trial - 9);
    const float iscale =
        trial == 0 ? -static_cast<float>(kLevels) / extreme
                   : -(static_cast<float>(kLevels) + 0.1F * static_cast<float>(shift)) / extreme;
    float sum_xq = 0.0F;
    float sum_qq = 0.0F;
    for (int i = 0; i < kSize; ++i) {
      const auto level =
          static_cast<float>(std::clamp(round_even(iscale * x[i]), -kLevels, kLevels - 1));
      sum_xq += weight(i) * x[i] * level;
      sum_qq += weight(i) * level * level;
    }
    const bool better = trial == 0 || (sum_qq > 0.0F && sum_xq * sum_xq > best * sum_qq);
    if (!better) continue;
    for (int i = 0; i < kSize; ++i) {
      q[i] = static_cast<std::int8_t>(std::clamp(round_even(iscale * x[i]), -kLevels, kLevels - 1));
    }
    scale = sum_qq != 0.0F ? sum_xq / sum_qq : 0.0F;
    best = scale * sum_xq;
  }
  return scale;
}

}  // namespace

void quantize_q4_k(const float* x, const float* importance, BlockQ4_K& block) {
  std::uint8_t q[256];
  quantize_affine(x, importance, 15, -1.0F, 20, block, q);
  for (int g = 0; g < 4; ++g) {
    for (int l = 0; l < 32; ++l) {
      block.qs[32 * g + l] = static_cast<std::uint8_t>(q[64 * g + l] | q[64 * g + 32 + l] << 4);
    }
  }
}

void quantize_q5_k(const float* x, const float* importance, BlockQ5_K& block) {
  std::uint8_t q[256];
  quantize_affine(x, importance, 31, -0.5F, 15, block, q);
  std::fill(block.qh, block.qh + 32, std::uint8_t{0});
  for (int j = 0; j < 8; ++j) {
    for (int l = 0; l < 32; ++l) {
      const std::uint8_t level = q[32 * j + l];
      block.qh[l] = static_cast<std::uint8_t>(block.qh[l] | (level >> 4) << j);
    }
  }
  for (int g = 0; g < 4; ++g) {
    for (int l = 0; l < 32; ++l) {
      block.qs[32 * g + l] =
          static_cast<std::uint8_t>((q[64 * g + l] & 15) | (q[64 * g + 32 + l] & 15) << 4);
    }
  }
}

void quantize_q6_k(const float* x, const float* importance, BlockQ6_K& block) {
  std::int8_t q[256];
  float scales[16];
  float extreme = 0.0F;
  for (int k = 0; k < 16; ++k) {
    scales[k] = search_symmetric(
        x + 16 * k, importance != nullptr ? importance + 16 * k : nullptr, q + 16 * k);
    if (std::fabs(scales[k]) > std::fabs(extreme)) extreme = scales[k];
  }
  block = BlockQ6_K{};
  if (std::fabs(extreme) < kNothing) return;
  const float iscale = -128.0F / extreme;
  block.d = float_to_half(1.0F / iscale);
  for (int k = 0; k < 16; ++k) {
    block.scales[k] =
        static_cast<std::int8_t>(std::clamp(round_even(iscale * scales[k]), -128, 127));
    const float d = half_to_float(block.d) * static_cast<float>(block.scales[k]);
    if (d == 0.0F) continue;
    for (int i = 16 * k; i < 16 * k + 16; ++i) {
      q[i] = static_cast<std::int8_t>(std::clamp(round_even(x[i] / d), -32, 31));
    }
  }
  for (int e = 0; e < 256; ++e) {
    const int level = q[e] + 32;
    const int half = e / 128;
    const int quarter = e % 128 / 32;
    const int l = e % 32;
    std::uint8_t& low = block.ql[64 * half + 32 * (quarter % 2) + l];
    low = static_cast<std::uint8_t>(low | (level & 15) << (quarter < 2 ? 0 : 4));
    std::uint8_t& high = block.qh[32 * half + l];
    high = static_cast<std::uint8_t>(high | (level >> 4) << (2 * quarter));
  }
}

}  // namespace pocketvlm
