#include "mobile/neon_kernels.h"

// What every 64-bit ARM processor has.
namespace pocketvlm {
namespace {

struct WideningDot {
  static int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) {
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
    return vaddq_s32(sum, vpaddq_s32(low, high));
  }
};

}  // namespace

const Kernels& neon_kernels() {
  static constexpr Kernels kTable = neon_table<WideningDot>("neon");
  return kTable;
}

}  // namespace pocketvlm
