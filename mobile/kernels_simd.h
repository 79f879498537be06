#pragma once

#include <vector>

#include "mobile/kernels.h"

namespace pocketvlm {

/// Adds the tables of vector instructions that this processor has, fastest first. Empty where none is written yet.
void append_simd_kernels(std::vector<const Kernels*>& tables);

#if defined(__x86_64__)
/// AVX2 + FMA + F16C.
const Kernels& avx2_kernels();
/// AVX-512 F, BW, DQ, VL and VNNI.
const Kernels& avx512_kernels();
#endif

}  // namespace pocketvlm
