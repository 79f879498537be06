#pragma once

#include <cstddef>
#include <vector>

#include "mobile/kernels.h"

namespace pocketvlm {

/// Adds the tables of vector instructions that this processor has, fastest first.
void append_simd_kernels(std::vector<const Kernels*>& tables);

/// Memory of this thread for unpacked weights, aligned to 64 bytes; valid until the next call on
/// the same thread.
void* panel_scratch(std::size_t bytes);

#if defined(__x86_64__)
/// AVX2, FMA, F16C.
const Kernels& avx2_kernels();
/// AVX-512 F, BW, DQ, VL and VNNI.
const Kernels& avx512_kernels();
/// Its products with packed weights; nullptr for other types.
PackedMatmulFunction avx512_packed_matmul(GgmlType type);
void avx512_matmul_int8(const PackedRows& weights,
                        const Int8Input& input,
                        float* y,
                        std::int64_t y_stride);
void avx512_quantize_int8(const float* x,
                          std::int64_t n,
                          std::int64_t columns,
                          std::int8_t* quants,
                          float* scales,
                          float* constants);
/// Needs AVX512_BF16 beside what the table above needs.
void avx512bf16_attend(const AttentionHead& head);
/// With AMX tiles of bytes and bfloat16, beside AVX512_BF16 and what the table above needs; many
/// input rows go through tiles, everything else is the table above.
const Kernels& amx_kernels();
PromptMatmulFunction amx_prompt_matmul(GgmlType type);
PromptRowsFunction amx_prompt_matmul_rows(GgmlType type);
std::int64_t amx_prompt_bytes(std::int64_t tokens, std::int64_t columns);
void amx_pack_prompt(const float* values,
                     std::int64_t first,
                     std::int64_t count,
                     std::int64_t token,
                     const PromptInput& shape,
                     void* tiles);
void amx_attend(const AttentionHead& head);
void amx_attend_causal(const CausalHead& head);
void amx_matmul_int8(const PackedRows& weights,
                     const Int8Input& input,
                     float* y,
                     std::int64_t y_stride);
#elif defined(__aarch64__)
/// What every 64-bit ARM processor has.
const Kernels& neon_kernels();
/// With dotprod (ARMv8.2: Cortex-A76 and later).
const Kernels& neon_dotprod_kernels();
/// With dotprod and i8mm (ARMv8.6, ARMv9: Cortex-X2, A710 and later).
const Kernels& neon_i8mm_kernels();
#endif

}  // namespace pocketvlm
