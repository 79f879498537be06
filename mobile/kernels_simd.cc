#include "mobile/kernels_simd.h"

namespace pocketvlm {

void append_simd_kernels([[maybe_unused]] std::vector<const Kernels*>& tables) {}

}  // namespace pocketvlm
