#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mobile/model.h"
#include "mobile/quants.h"

namespace pocketvlm {

/// Inputs of a matrix product: `tokens` rows of `columns` values. Float weights read `values`;
/// quantized weights read the int8 form, one scale for 32 values (finer than the 256 of other
/// runtimes, for K types, too), with the scaled sums that carry the constant part of a weight
/// block.
struct MatmulInput {
  std::int64_t tokens = 0;
  std::int64_t columns = 0;
  const float* values = nullptr;
  std::int64_t stride = 0;              // floats from one row of `values` to the next
  const std::int8_t* quants = nullptr;  // [tokens, columns], -127..127
  const float* scales = nullptr;        // [tokens, columns / 32]
  const float* sums16 = nullptr;        // [tokens, columns / 16]: scale times the sum of 16 quants
  const float* sums32 = nullptr;        // [tokens, columns / 32]
};

/// Input rows of a prompt as Kernels::pack_prompt leaves them.
struct PromptInput {
  std::int64_t tokens = 0;
  std::int64_t columns = 0;
  const void* tiles = nullptr;
};

/// Where the int8 form of one input row goes; sizes as in MatmulInput.
struct QuantizedRow {
  std::int8_t* quants;
  float* scales;
  float* sums16;
  float* sums32;
};

/// Rows of a weight matrix in their file format, or a plain float matrix such as keys of the cache.
struct WeightRows {
  const void* data = nullptr;
  std::int64_t row_bytes = 0;  // from one row to the next
  std::int64_t rows = 0;
};

/// y[token * y_stride + row] = dot(weight row, input row), for all tokens and rows.
using MatmulFunction = void (*)(const WeightRows& weights,
                                const MatmulInput& input,
                                float* y,
                                std::int64_t y_stride);

/// Rows of a weight matrix in panels (packed_formats.h), the first of a panel first.
struct PackedRows {
  const void* data = nullptr;
  std::int64_t rows = 0;
};

using PackedMatmulFunction = void (*)(const PackedRows& weights,
                                      const MatmulInput& input,
                                      float* y,
                                      std::int64_t y_stride);

using PromptMatmulFunction = void (*)(const PackedRows& weights,
                                      const PromptInput& input,
                                      float* y,
                                      std::int64_t y_stride);
using PromptRowsFunction = void (*)(const WeightRows& weights, const PromptInput& input, float* y, std::int64_t y_stride);

/// Input rows of products with PackedInt8: eight bits, one scale for 128 columns.
struct Int8Input {
  std::int64_t tokens = 0;
  std::int64_t columns = 0;             // whole units of 128
  const std::int8_t* quants = nullptr;  // [tokens, columns], -127..127
  const float* scales = nullptr;        // [tokens, columns / 128]
  const float* constants = nullptr;     // [tokens, columns / 128]: -128 times scale times the sum
};

/// One head of attention over one slice: out = softmax(scale q k^T) v.
struct AttentionHead {
  const float* q;  // [queries, head_dim], `stride` floats from row to row; k, v, out alike
  const float* k;  // [keys, head_dim]
  const float* v;
  float* out;
  std::int64_t stride;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t head_dim;
  float scale;
};

/// Queries of one head along a prompt, over keys and values in halves: query i sees the first
/// first_seen + i keys, at least one. out = softmax(scale q k^T) v.
struct CausalHead {
  const float* q;  // [queries, head_dim], `stride` floats from row to row
  float* out;      // the same; may be q
  std::int64_t stride;
  std::int64_t queries;
  std::int64_t first_seen;
  const std::uint16_t* keys;    // [keys, head_dim]
  const std::uint16_t* values;  // [head_dim, keys], `value_stride` halves from row to row
  std::int64_t value_stride;
  std::int64_t head_dim;
  float scale;
};

/// The inner loops of the runtime. One plain table ("scalar") is the oracle; others use what a
/// processor has and are chosen at run time. Every function works for any size and alignment.
struct Kernels {
  const char* name;
  MatmulFunction matmul_f32;
  MatmulFunction matmul_f16;
  MatmulFunction matmul_bf16;
  MatmulFunction matmul_q8_0;
  MatmulFunction matmul_q4_0;
  MatmulFunction matmul_q4_1;
  MatmulFunction matmul_q5_0;
  MatmulFunction matmul_q5_1;
  MatmulFunction matmul_q4_k;
  MatmulFunction matmul_q5_k;
  MatmulFunction matmul_q6_k;

  /// The product with packed weights of a type, nullptr where there is none. No function at all:
  /// this table reads weights as they lie in the file.
  PackedMatmulFunction (*packed_matmul)(GgmlType type);

  /// The same with the rows of a prompt (kPromptTokens and more) and weights in bfloat16, sums in float32; no function: prompts
  /// are rounded to eight bits as single tokens are.
  PromptMatmulFunction (*prompt_matmul)(GgmlType type) = nullptr;
  /// The same with weights as they lie in the file, for rows of any length.
  PromptRowsFunction (*prompt_matmul_rows)(GgmlType type) = nullptr;
  /// What they read: its bytes, a multiple of 64, aligned so; and `count` values of row `token` from column `first` on, whole
  /// blocks of 32 or all that are left, to their place in it.
  std::int64_t (*prompt_bytes)(std::int64_t tokens, std::int64_t columns) = nullptr;
  void (*pack_prompt)(const float* values,
                      std::int64_t first,
                      std::int64_t count,
                      std::int64_t token,
                      const PromptInput& shape,
                      void* tiles) = nullptr;

  /// Vision in eight bits; nullptr where this table has it not.
  void (*matmul_int8)(const PackedRows& weights,
                      const Int8Input& input,
                      float* y,
                      std::int64_t y_stride);
  /// A row of n values, continued with zeros to `columns`, as Int8Input wants it.
  void (*quantize_int8)(const float* x,
                        std::int64_t n,
                        std::int64_t columns,
                        std::int8_t* quants,
                        float* scales,
                        float* constants);
  /// Attention with bfloat16 inputs and float32 sums; nullptr where the processor has no such
  /// products.
  void (*attend_bf16)(const AttentionHead& head);
  /// Attention of a prompt, as exact as float32 sums are; nullptr where products of floats do.
  void (*attend_causal)(const CausalHead& head) = nullptr;

  /// int8 form of n values (a multiple of 32). q = round half to even of x * (127 / max |x|), so
  /// all tables give the same bits.
  void (*quantize)(const float* x, std::int64_t n, const QuantizedRow& out);

  /// x = softmax(scale * x) in place.
  void (*softmax)(float* x, std::int64_t n, float scale);
  /// gate = silu(gate) * up.
  void (*silu_multiply)(float* gate, const float* up, std::int64_t n);
  void (*activate)(MobileActivation activation, float* x, std::int64_t n);
  /// y = x / rms(x) * weight.
  void (*rms_norm)(const float* x, const float* weight, std::int64_t n, float eps, float* y);
  /// y = (x - mean) / sqrt(var + eps) * weight + bias; y may be x.
  void (*layer_norm)(
      const float* x, const float* weight, const float* bias, std::int64_t n, float eps, float* y);
  /// y += scale * x.
  void (*add_scaled)(const float* x, float scale, std::int64_t n, float* y);
  /// IEEE halves of n values, rounded half to even: the same bits in all tables.
  void (*to_half)(const float* x, std::int64_t n, std::uint16_t* halves);
};

/// The product for one tensor type. Throws Error when the type cannot be computed with.
MatmulFunction matmul_for(const Kernels& kernels, GgmlType type);

/// The product with packed weights of this type and row length, or nullptr.
PackedMatmulFunction packed_matmul_for(const Kernels& kernels,
                                       GgmlType type,
                                       std::int64_t columns);

/// Fewer rows are faster one by one.
constexpr std::int64_t kPromptTokens = 8;

/// Whether products with this type read the int8 form.
bool needs_quantized_input(GgmlType type);

/// The plain loops.
const Kernels& scalar_kernels();

/// Tables that this processor can run, fastest first; "scalar" is always last.
std::vector<const Kernels*> available_kernels();

/// By name, or the fastest for "auto". Throws Error naming the choices when the processor or the
/// build has it not.
const Kernels& choose_kernels(const std::string& name);

}  // namespace pocketvlm
