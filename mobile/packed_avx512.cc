#include "mobile/packed512.h"
#include "mobile/packed_kernels.h"

// Compiled with the AVX-512 F, BW, DQ, VL and VNNI instructions, as kernels_avx512.cc is: nothing
// with external linkage but the functions of kernels_simd.h.
namespace pocketvlm {

PackedMatmulFunction avx512_packed_matmul(GgmlType type) {
  return packed_matmul_of<Packed512>(type);
}

}  // namespace pocketvlm
