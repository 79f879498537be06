#include "mobile/quants.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "mobile/block_formats.h"

namespace pocketvlm {
namespace {

constexpr std::array<GgmlTypeInfo, 20> kTypes = {{
    {GgmlType::kF32, "f32", 1, 4},       {GgmlType::kF16, "f16", 1, 2},
    {GgmlType::kQ4_0, "q4_0", 32, 18},   {GgmlType::kQ4_1, "q4_1", 32, 20},
    {GgmlType::kQ5_0, "q5_0", 32, 22},   {GgmlType::kQ5_1, "q5_1", 32, 24},
    {GgmlType::kQ8_0, "q8_0", 32, 34},   {GgmlType::kQ8_1, "q8_1", 32, 36},
    {GgmlType::kQ2_K, "q2_K", 256, 84},  {GgmlType::kQ3_K, "q3_K", 256, 110},
    {GgmlType::kQ4_K, "q4_K", 256, 144}, {GgmlType::kQ5_K, "q5_K", 256, 176},
    {GgmlType::kQ6_K, "q6_K", 256, 210}, {GgmlType::kQ8_K, "q8_K", 256, 292},
    {GgmlType::kI8, "i8", 1, 1},         {GgmlType::kI16, "i16", 1, 2},
    {GgmlType::kI32, "i32", 1, 4},       {GgmlType::kI64, "i64", 1, 8},
    {GgmlType::kF64, "f64", 1, 8},       {GgmlType::kBF16, "bf16", 1, 2},
}};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// The quants are made with the unrounded scale, the stored scale is its half: the format's
// reference does so.
float inverse(float d) { return d != 0.0F ? 1.0F / d : 0.0F; }

void quantize_q8_0(const float* x, BlockQ8_0& block) {
  float largest = 0.0F;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127.0F;
  const float id = inverse(d);
  block.d = float_to_half(d);
  for (int i = 0; i < 32; ++i) block.q[i] = static_cast<std::int8_t>(std::round(x[i] * id));
}

// The element of largest magnitude with its sign; the first one on ties.
float signed_largest(const float* x, int n) {
  float largest = 0.0F;
  float value = 0.0F;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > largest) {
      largest = std::fabs(x[i]);
      value = x[i];
    }
  }
  return value;
}

// Scale of a symmetric grid -levels .. levels - 1 that lessens the weighted squared error. Our own
// search: the reference has none for the 32-blocks without importance.
float weighted_scale(const float* x, const float* importance, int levels) {
  const float extreme = signed_largest(x, 32);
  if (extreme == 0.0F) return 0.0F;
  float best_scale = extreme / static_cast<float>(-levels);
  float best = -1.0F;
  for (int trial = -12; trial <= 12; ++trial) {
    const float iscale = -(static_cast<float>(levels) + 0.1F * static_cast<float>(trial)) / extreme;
    float sum_xq = 0.0F;
    float sum_qq = 0.0F;
    for (int i = 0; i < 32; ++i) {
      const float q = std::clamp(std::floor(iscale * x[i] + 0.5F),
                                 static_cast<float>(-levels),
                                 static_cast<float>(levels - 1));
      sum_xq += importance[i] * x[i] * q;
      sum_qq += importance[i] * q * q;
    }
    if (sum_qq > 0.0F && sum_xq * sum_xq > best * sum_qq) {
      best = sum_xq * sum_xq / sum_qq;
      best_scale = sum_xq / sum_qq;
    }
  }
  return best_scale;
}

int symmetric_level(float x, float id, int levels) {
  const int q = static_cast<int>(x * id + (static_cast<float>(levels) + 0.5F));
  return std::clamp(q, 0, 2 * levels - 1);
}

void quantize_q4_0(const float* x, BlockQ4_0& block, const float* importance) {
  const float d =
      importance != nullptr ? weighted_scale(x, importance, 8) : signed_largest(x, 32) / -8.0F;
  const float id = inverse(d);
  block.d = float_to_half(d);
  for (int j = 0; j < 16; ++j) {
    const int low = symmetric_level(x[j], id, 8);
    const int high = symmetric_level(x[j + 16], id, 8);
    block.qs[j] = static_cast<std::uint8_t>(low | high << 4);
  }
}

void quantize_q5_0(const float* x, BlockQ5_0& block, const float* importance) {
  const float d =
      importance != nullptr ? weighted_scale(x, importance, 16) : signed_largest(x, 32) / -16.0F;
  const float id = inverse(d);
  block.d = float_to_half(d);
  std::uint32_t fifth = 0;
  for (int j = 0; j < 16; ++j) {
    const auto low = static_cast<std::uint32_t>(symmetric_level(x[j], id, 16));
    const auto high = static_cast<std::uint32_t>(symmetric_level(x[j + 16], id, 16));
    block.qs[j] = static_cast<std::uint8_t>((low & 15) | (high & 15) << 4);
    fifth |= (low >> 4) << j | (high >> 4) << (j + 16);
  }
  std::memcpy(block.qh, &fifth, 4);
}

struct Range {
  float low;
  float step;
};

Range affine_range(const float* x, int levels) {
  // The first of equals, as in the reference: 0 and -0 differ in the stored minimum.
  const float low = *std::min_element(x, x + 32);
  const float high = *std::max_element(x, x + 32);
  return {low, (high - low) / static_cast<float>(levels)};
}

int affine_level(float x, const Range& range, float id, int levels) {
  return std::min(levels, static_cast<int>((x - range.low) * id + 0.5F));
}

void quantize_q4_1(const float* x, BlockQ4_1& block) {
  const Range range = affine_range(x, 15);
  const float id = inverse(range.step);
  block.d = float_to_half(range.step);
  block.m = float_to_half(range.low);
  for (int j = 0; j < 16; ++j) {
    const int low = affine_level(x[j], range, id, 15);
    const int high = affine_level(x[j + 16], range, id, 15);
    block.qs[j] = static_cast<std::uint8_t>(low | high << 4);
  }
}

void quantize_q5_1(const float* x, BlockQ5_1& block) {
  const Range range = affine_range(x, 31);
  const float id = inverse(range.step);
  block.d = float_to_half(range.step);
  block.m = float_to_half(range.low);
  std::uint32_t fifth = 0;
  for (int j = 0; j < 16; ++j) {
    const auto low = static_cast<std::uint32_t>(affine_level(x[j], range, id, 31));
    const auto high = static_cast<std::uint32_t>(affine_level(x[j + 16], range, id, 31));
    block.qs[j] = static_cast<std::uint8_t>((low & 15) | (high & 15) << 4);
    fifth |= (low >> 4) << j | (high >> 4) << (j + 16);
  }
  std::memcpy(block.qh, &fifth, 4);
}

std::uint32_t fifth_bits(const std::uint8_t* qh) {
  std::uint32_t bits;
  std::memcpy(&bits, qh, 4);
  return bits;
}

void dequantize_block(const BlockQ8_0& block, float* y) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(block.q[i]) * d;
}

void dequantize_block(const BlockQ4_0& block, float* y) {
  const float d = half_to_float(block.d);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>((block.qs[j] & 15) - 8) * d;
    y[j + 16] = static_cast<float>((block.qs[j] >> 4) - 8) * d;
  }
}

void dequantize_block(const BlockQ4_1& block, float* y) {
  const float d = half_to_float(block.d);
  const float m = half_to_float(block.m);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(block.qs[j] & 15) * d + m;
    y[j + 16] = static_cast<float>(block.qs[j] >> 4) * d + m;
  }
}

void dequantize_block(const BlockQ5_0& block, float* y) {
  const float d = half_to_float(block.d);
  const std::uint32_t fifth = fifth_bits(block.qh);
  for (int j = 0; j < 16; ++j) {
    const int low = (block.qs[j] & 15) | static_cast<int>(fifth >> j & 1) << 4;
    const int high = (block.qs[j] >> 4) | static_cast<int>(fifth >> (j + 16) & 1) << 4;
    y[j] = static_cast<float>(low - 16) * d;
    y[j + 16] = static_cast<float>(high - 16) * d;
  }
}

void dequantize_block(const BlockQ5_1& block, float* y) {
  const float d = half_to_float(block.d);
  const float m = half_to_float(block.m);
  const std::uint32_t fifth = fifth_bits(block.qh);
  for (int j = 0; j < 16; ++j) {
    const int low = (block.qs[j] & 15) | static_cast<int>(fifth >> j & 1) << 4;
    const int high = (block.qs[j] >> 4) | static_cast<int>(fifth >> (j + 16) & 1) << 4;
    y[j] = static_cast<float>(low) * d + m;
    y[j + 16] = static_cast<float>(high) * d + m;
  }
}

void dequantize_block(const BlockQ4_K& block, float* y) {
  const float d = half_to_float(block.d);
  const float dmin = half_to_float(block.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin pair = unpack_scale_min(block.scales, j);
    const float scale = d * static_cast<float>(pair.scale);
    const float offset = dmin * static_cast<float>(pair.min);
    const std::uint8_t* qs = block.qs + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int l = 0; l < 32; ++l)
      y[32 * j + l] = scale * static_cast<float>(qs[l] >> shift & 15) - offset;
  }
}

void dequantize_block(const BlockQ5_K& block, float* y) {
  const float d = half_to_float(block.d);
  const float dmin = half_to_float(block.dmin);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin pair = unpack_scale_min(block.scales, j);
    const float scale = d * static_cast<float>(pair.scale);
    const float offset = dmin * static_cast<float>(pair.min);
    const std::uint8_t* qs = block.qs + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int l = 0; l < 32; ++l) {
      const int q = (qs[l] >> shift & 15) | (block.qh[l] >> j & 1) << 4;
      y[32 * j + l] = scale * static_cast<float>(q) - offset;
    }
  }
}

void dequantize_block(const BlockQ6_K& block, float* y) {
  const float d = half_to_float(block.d);
  for (int e = 0; e < 256; ++e) {
    const float scale = d * static_cast<float>(block.scales[e / 16]);
    y[e] = scale * static_cast<float>(q6_k_level(block, e) - 32);
  }
}

template <typename Block>
void dequantize_blocks(const void* source, std::int64_t n, float* out) {
  constexpr std::int64_t kElements = Block::kElements;
  const auto* bytes = static_cast<const std::byte*>(source);
  for (std::int64_t i = 0; i < n / kElements; ++i) {
    Block block;
    std::memcpy(&block, bytes + i * static_cast<std::int64_t>(sizeof(Block)), sizeof(Block));
    dequantize_block(block, out + i * kElements);
  }
}

template <typename Block, typename Quantize>
void quantize_blocks(const float* x, std::int64_t n, void* out, const Quantize& quantize) {
  constexpr std::int64_t kElements = Block::kElements;
  auto* bytes = static_cast<std::byte*>(out);
  for (std::int64_t i = 0; i < n / kElements; ++i) {
    Block block{};
    quantize(x + i * kElements, i * kElements, block);
    std::memcpy(bytes + i * static_cast<std::int64_t>(sizeof(Block)), &block, sizeof(Block));
  }
}

}  // namespace

const GgmlTypeInfo* find_type_info(std::uint32_t type) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<std::uint32_t>(info.type) == type) return &info;
  }
  return nullptr;
}

const GgmlTypeInfo& type_info(GgmlType type) {
  const GgmlTypeInfo* info = find_type_info(static_cast<std::uint32_t>(type));
  PV_CHECK(info != nullptr, "tensor type {} is unknown", static_cast<std::uint32_t>(type));
  return *info;
}

std::optional<GgmlType> parse_ggml_type(std::string_view name) {
  const std::string wanted = lower(name);
  for (const GgmlTypeInfo& info : kTypes) {
    if (lower(info.name) == wanted) return info.type;
  }
  return std::nullopt;
}

bool is_supported_type(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kBF16:
    case GgmlType::kQ8_0:
    case GgmlType::kQ4_0:
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_0:
    case GgmlType::kQ5_1:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
    case GgmlType::kQ6_K:
      return true;
    default:
      return false;
  }
}

std::int64_t row_bytes(GgmlType type, std::int64_t n) {
  const GgmlTypeInfo& info = type_info(type);
  PV_CHECK(n >= 0 && n % info.block == 0,
           "a row of {} values is not whole {} blocks of {}; use a type with smaller blocks",
           n,
           info.name,
           info.block);
  return n / info.block * info.bytes;
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = half >> 10 & 31U;
  const std::uint32_t mantissa = half & 1023U;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  // Subnormal: mantissa * 2^-24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return static_cast<std::uint16_t>(sign | 0x7E00U | (magnitude >> 13 & 0x1FFU));
  }
  if (magnitude >= 0x477FF000U)
    return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds to infinity
  if (magnitude < 0x38800000U) {
    // Subnormal or zero: adding 2^-1 puts the half's last place at the float's last place, rounding
    // to even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t rounded = magnitude + 0x0FFFU + (magnitude >> 13 & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112U << 10)));
}

float bfloat16_to_float(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>(bits >> 16 | 64U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

void quantize_row(GgmlType type, const float* source, std::int64_t n, void* out) {
  quantize_row(type, source, n, out, nullptr);
}

void quantize_row(
    GgmlType type, const float* x, std::int64_t n, void* out, const float* importance) {
  const std::int64_t bytes = row_bytes(type, n);
  const auto weights = [&](std::int64_t first) {
    return importance != nullptr ? importance + first : nullptr;
  };
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(out, x, static_cast<std::size_t>(bytes));
      return;
    case GgmlType::kF16:
    case GgmlType::kBF16: {
      const bool half = type == GgmlType::kF16;
      auto* target = static_cast<std::byte*>(out);
      for (std::int64_t i = 0; i < n; ++i) {
        const std::uint16_t bits = half ? float_to_half(x[i]) : float_to_bfloat16(x[i]);
        std::memcpy(target + 2 * i, &bits, 2);
      }
      return;
    }
    case GgmlType::kQ8_0:
      return quantize_blocks<BlockQ8_0>(
          x, n, out, [&](const float* v, std::int64_t, BlockQ8_0& b) { quantize_q8_0(v, b); });
    case GgmlType::kQ4_0:
      return quantize_blocks<BlockQ4_0>(
          x, n, out, [&](const float* v, std::int64_t i, BlockQ4_0& b) {
            quantize_q4_0(v, b, weights(i));
          });
    case GgmlType::kQ4_1:
      return quantize_blocks<BlockQ4_1>(
          x, n, out, [&](const float* v, std::int64_t, BlockQ4_1& b) { quantize_q4_1(v, b); });
    case GgmlType::kQ5_0:
      return quantize_blocks<BlockQ5_0>(
          x, n, out, [&](const float* v, std::int64_t i, BlockQ5_0& b) {
            quantize_q5_0(v, b, weights(i));
          });
    case GgmlType::kQ5_1:
      return quantize_blocks<BlockQ5_1>(
          x, n, out, [&](const float* v, std::int64_t, BlockQ5_1& b) { quantize_q5_1(v, b); });
    case GgmlType::kQ4_K:
      return quantize_blocks<BlockQ4_K>(
          x, n, out, [&](const float* v, std::int64_t i, BlockQ4_K& b) {
            quantize_q4_k(v, weights(i), b);
          });
    case GgmlType::kQ5_K:
      return quantize_blocks<BlockQ5_K>(
          x, n, out, [&](const float* v, std::int64_t i, BlockQ5_K& b) {
            quantize_q5_k(v, weights(i), b);
          });
    case GgmlType::kQ6_K:
      return quantize_blocks<BlockQ6_K>(
          x, n, out, [&](const float* v, std::int64_t i, BlockQ6_K& b) {
            quantize_q6_k(v, weights(i), b);
          });
    default:
      fail(
          "values cannot be quantized to type {}; choose f32, f16, bf16, q8_0, q4_0, q5_0, q4_k, "
          "q5_k or q6_k",
          type_info(type).name);
  }
}

void dequantize_row(GgmlType type, const void* blocks, std::int64_t n, float* out) {
  const std::int64_t bytes = row_bytes(type, n);
  const auto* source = static_cast<const std::byte*>(blocks);
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(out, blocks, static_cast<std::size_t>(bytes));
      return;
    case GgmlType::kF16:
    case GgmlType::kBF16:
      for (std::int64_t i = 0; i < n; ++i) {
        std::uint16_t bits;
        std::memcpy(&bits, source + 2 * i, 2);
        out[i] = type == GgmlType::kF16 ? half_to_float(bits) : bfloat16_to_float(bits);
      }
      return;
    case GgmlType::kQ8_0:
      return dequantize_blocks<BlockQ8_0>(blocks, n, out);
    case GgmlType::kQ4_0:
      return dequantize_blocks<BlockQ4_0>(blocks, n, out);
    case GgmlType::kQ4_1:
      return dequantize_blocks<BlockQ4_1>(blocks, n, out);
    case GgmlType::kQ5_0:
      return dequantize_blocks<BlockQ5_0>(blocks, n, out);
    case GgmlType::kQ5_1:
      return dequantize_blocks<BlockQ5_1>(blocks, n, out);
    case GgmlType::kQ4_K:
      return dequantize_blocks<BlockQ4_K>(blocks, n, out);
    case GgmlType::kQ5_K:
      return dequantize_blocks<BlockQ5_K>(blocks, n, out);
    case GgmlType::kQ6_K:
      return dequantize_blocks<BlockQ6_K>(blocks, n, out);
    default:
      fail(
          "type {} cannot be read here; supported are f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, "
          "q5_1, q4_K, q5_K, q6_K",
          type_info(type).name);
  }
}

}  // namespace pocketvlm
