#include "mobile/neon_kernels.h"

// Compiled with dotprod (ARMv8.2); run only where the processor has it.
namespace pocketvlm {
namespace {

struct DotInstruction {
  static int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); }
};

}  // namespace

const Kernels& neon_dotprod_kernels() {
  static constexpr Kernels kTable = neon_table<DotInstruction>("neon_dotprod");
  return kTable;
}

}  // namespace pocketvlm
