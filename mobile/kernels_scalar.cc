#include <algorithm>
#include <cmath>
#include <cstring>

#include "mobile/kernels.h"
#include "mobile/unpack_blocks.h"

// The oracle: what every other table must agree with. Integer parts are exact; float sums run in
// plain order.
namespace pocketvlm {
namespace {

float load_f32(const std::byte* at) {
  float value;
  std::memcpy(&value, at, 4);
  return value;
}

std::uint16_t load_u16(const void* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return bits;
}

float load_f16(const std::byte* at) { return half_to_float(load_u16(at)); }
float load_bf16(const std::byte* at) { return bfloat16_to_float(load_u16(at)); }

template <float (*kLoad)(const std::byte*), int kBytes>
void matmul_float(const WeightRows& weights,
                  const MatmulInput& input,
                  float* y,
                  std::int64_t y_stride) {
  const auto* data = static_cast<const std::byte*>(weights.data);
  for (std::int64_t row = 0; row < weights.rows; ++row) {
    const std::byte* w = data + row * weights.row_bytes;
    for (std::int64_t token = 0; token < input.tokens; ++token) {
      const float* x = input.values + token * input.stride;
      float sum = 0.0F;
      for (std::int64_t i = 0; i < input.columns; ++i) sum += kLoad(w + i * kBytes) * x[i];
      y[token * y_stride + row] = sum;
    }
  }
}

template <typename Block>
void matmul_quantized(const WeightRows& weights,
                      const MatmulInput& input,
                      float* y,
                      std::int64_t y_stride) {
  constexpr std::int64_t kElements = Block::kElements;
  const auto* data = static_cast<const std::byte*>(weights.data);
  const std::int64_t blocks = input.columns / kElements;
  for (std::int64_t row = 0; row < weights.rows; ++row) {
    for (std::int64_t token = 0; token < input.tokens; ++token) y[token * y_stride + row] = 0.0F;
    for (std::int64_t b = 0; b < blocks; ++b) {
      Block block;
      std::memcpy(&block,
                  data + row * weights.row_bytes + b * static_cast<std::int64_t>(sizeof(Block)),
                  sizeof(Block));
      Unpacked<Block> unpacked;
      unpack(block, unpacked);
      for (std::int64_t token = 0; token < input.tokens; ++token) {
        const std::int8_t* x = input.quants + token * input.columns + b * kElements;
        const float* scales = input.scales + (token * input.columns + b * kElements) / 32;
        const float* sums = input.sums16 + (token * input.columns + b * kElements) / 16;
        float total = 0.0F;
        for (int k = 0; k < kElements / 16; ++k) {
          std::int32_t dot = 0;
          for (int i = 16 * k; i < 16 * k + 16; ++i) dot += unpacked.levels[i] * x[i];
          total += scales[k / 2] * unpacked.scale[k] * static_cast<float>(dot) +
                   unpacked.offset[k] * sums[k];
        }
        y[token * y_stride + row] += total;
      }
    }
  }
}

void quantize(const float* x, std::int64_t n, const QuantizedRow& out) {
  for (std::int64_t b = 0; b < n / 32; ++b) {
    float largest = 0.0F;
    for (std::int64_t i = 32 * b; i < 32 * b + 32; ++i)
      largest = std::max(largest, std::fabs(x[i]));
    out.scales[b] = largest / 127.0F;
    const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
    std::int32_t sums[2] = {0, 0};
    for (std::int64_t i = 0; i < 32; ++i) {
      const float level = std::nearbyint(x[32 * b + i] * inverse);
      // Infinity and NaN, which damaged weights lead to, become 0 in every kernel table.
      const auto q = static_cast<std::int8_t>(std::fabs(level) <= 127.0F ? level : 0.0F);
      out.quants[32 * b + i] = q;
      sums[i / 16] += q;
    }
    out.sums16[2 * b] = out.scales[b] * static_cast<float>(sums[0]);
    out.sums16[2 * b + 1] = out.scales[b] * static_cast<float>(sums[1]);
    out.sums32[b] = out.scales[b] * static_cast<float>(sums[0] + sums[1]);
  }
}

void softmax(float* x, std::int64_t n, float scale) {
  float largest = -INFINITY;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, scale * x[i]);
  float sum = 0.0F;
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(scale * x[i] - largest);
    sum += x[i];
  }
  for (std::int64_t i = 0; i < n; ++i) x[i] /= sum;
}

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

void silu_multiply(float* gate, const float* up, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

void activate(MobileActivation activation, float* x, std::int64_t n) {
  constexpr float kSqrtHalf = 0.70710678118654752440F;
  constexpr float kSqrtTwoOverPi = 0.79788456080286535588F;
  switch (activation) {
    case MobileActivation::kGeluTanh:
      for (std::int64_t i = 0; i < n; ++i) {
        const float inner = kSqrtTwoOverPi * (x[i] + 0.044715F * x[i] * x[i] * x[i]);
        x[i] = 0.5F * x[i] * (1.0F + std::tanh(inner));
      }
      return;
    case MobileActivation::kGeluErf:
      for (std::int64_t i = 0; i < n; ++i) x[i] = 0.5F * x[i] * (1.0F + std::erf(x[i] * kSqrtHalf));
      return;
    case MobileActivation::kQuickGelu:
      for (std::int64_t i = 0; i < n; ++i) x[i] *= sigmoid(1.702F * x[i]);
      return;
    case MobileActivation::kSilu:
      for (std::int64_t i = 0; i < n; ++i) x[i] *= sigmoid(x[i]);
      return;
  }
}

void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* y) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const float inverse = 1.0F / std::sqrt(static_cast<float>(sum / static_cast<double>(n)) + eps);
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

void layer_norm(
    const float* x, const float* weight, const float* bias, std::int64_t n, float eps, float* y) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(n);
  double squares = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double centred = static_cast<double>(x[i]) - mean;
    squares += centred * centred;
  }
  const float inverse =
      1.0F / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + eps);
  const auto centre = static_cast<float>(mean);
  for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - centre) * inverse * weight[i] + bias[i];
}

void add_scaled(const float* x, float scale, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += scale * x[i];
}

void to_half(const float* x, std::int64_t n, std::uint16_t* halves) {
  for (std::int64_t i = 0; i < n; ++i) halves[i] = float_to_half(x[i]);
}

}  // namespace

const Kernels& scalar_kernels() {
  static constexpr Kernels kScalar = {
      .name = "scalar",
      .matmul_f32 = matmul_float<load_f32, 4>,
      .matmul_f16 = matmul_float<load_f16, 2>,
      .matmul_bf16 = matmul_float<load_bf16, 2>,
      .matmul_q8_0 = matmul_quantized<BlockQ8_0>,
      .matmul_q4_0 = matmul_quantized<BlockQ4_0>,
      .matmul_q4_1 = matmul_quantized<BlockQ4_1>,
      .matmul_q5_0 = matmul_quantized<BlockQ5_0>,
      .matmul_q5_1 = matmul_quantized<BlockQ5_1>,
      .matmul_q4_k = matmul_quantized<BlockQ4_K>,
      .matmul_q5_k = matmul_quantized<BlockQ5_K>,
      .matmul_q6_k = matmul_quantized<BlockQ6_K>,
      .packed_matmul = nullptr,
      .matmul_int8 = nullptr,
      .quantize_int8 = nullptr,
      .attend_bf16 = nullptr,
      .quantize = quantize,
      .softmax = softmax,
      .silu_multiply = silu_multiply,
      .activate = activate,
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .add_scaled = add_scaled,
      .to_half = to_half,
  };
  return kScalar;
}

}  // namespace pocketvlm
