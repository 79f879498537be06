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
#elif defined(__aarch64__)
/// What every 64-bit ARM processor has; with dotprod; with dotprod and i8mm.
const Kernels& neon_kernels();
const Kernels& neon_dotprod_kernels();
const Kernels& neon_i8mm_kernels();
#endif

}  // namespace pocketvlm
