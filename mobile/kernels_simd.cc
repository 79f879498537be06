#include "mobile/kernels_simd.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace pocketvlm {
namespace {

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};

}  // namespace

void append_simd_kernels([[maybe_unused]] std::vector<const Kernels*>& tables) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512 && avx2) tables.push_back(&avx512_kernels());
  if (avx2) tables.push_back(&avx2_kernels());
#endif
}

void* panel_scratch(std::size_t bytes) {
  thread_local std::unique_ptr<void, Free> memory;
  thread_local std::size_t size = 0;
  if (bytes > size) {
    size = (bytes + 4095) / 4096 * 4096;
    memory.reset(std::aligned_alloc(64, size));
    if (!memory) throw std::bad_alloc();
  }
  return memory.get();
}

}  // namespace pocketvlm
