#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// Element types of GGUF tensors; the numbers are the file format's.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
};

/// Size of one block of a type: `block` elements take `bytes` bytes.
struct GgmlTypeInfo {
  GgmlType type;
  const char* name;  // "q4_K", as other tools spell it
  std::int64_t block;
  std::int64_t bytes;
};

/// Facts of a type, or nullptr when the number is unknown here.
const GgmlTypeInfo* find_type_info(std::uint32_t type);
const GgmlTypeInfo& type_info(GgmlType type);

/// "f16", "q4_k" ... in any case; nothing when unknown.
std::optional<GgmlType> parse_ggml_type(std::string_view name);

/// Types that quantize_row and dequantize_row handle and the runtime computes with.
bool is_supported_type(GgmlType type);

/// Bytes of a row of `n` elements; n must be a multiple of the type's block.
std::int64_t row_bytes(GgmlType type, std::int64_t n);

/// IEEE half and bfloat16, rounded half to even; NaN stays a (quiet) NaN.
float half_to_float(std::uint16_t half);
std::uint16_t float_to_half(float value);
float bfloat16_to_float(std::uint16_t value);
std::uint16_t float_to_bfloat16(float value);

/// Quantizes one row by the format's reference rules, byte-equal to llama.cpp's reference
/// quantizers: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.
///   source  n values, finite
///   out     row_bytes(type, n) bytes
/// Throws Error when the type is not supported or n is not a multiple of its block.
void quantize_row(GgmlType type, const float* source, std::int64_t n, void* out);

/// The same, choosing scales that lessen the error weighted by `importance` [n] (mean squared
/// activation of each input column); nullptr gives the reference rules. K types and the 4/5-bit
/// ones use it, others ignore it.
void quantize_row(
    GgmlType type, const float* source, std::int64_t n, void* out, const float* importance);

/// Back to float32, exactly as the format defines.
void dequantize_row(GgmlType type, const void* blocks, std::int64_t n, float* out);

}  // namespace pocketvlm
