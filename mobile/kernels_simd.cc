#include "mobile/kernels_simd.h"

#include <cstdlib>
#include <memory>
#include <new>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include "base/amx.h"
#endif

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
  if (avx512 && avx2 && __builtin_cpu_supports("avx512bf16") && may_use_amx())
    tables.push_back(&amx_kernels());
  if (avx512 && avx2) tables.push_back(&avx512_kernels());
  if (avx2) tables.push_back(&avx2_kernels());
#elif defined(__aarch64__)
  const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  const bool i8mm = (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
  if (dotprod && i8mm) tables.push_back(&neon_i8mm_kernels());
  if (dotprod) tables.push_back(&neon_dotprod_kernels());
  tables.push_back(&neon_kernels());
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
