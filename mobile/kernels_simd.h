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
#endif

}  // namespace pocketvlm
