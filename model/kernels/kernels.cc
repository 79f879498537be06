#include "model/kernels/kernels.h"

#include <cstdlib>
#include <string_view>
#include <vector>

#include "base/amx.h"
#include "base/error.h"

namespace pocketvlm::kernels {

extern const Table kPortableTable;
#if defined(POCKETVLM_X86_KERNELS)
extern const Table kAvx2Table;
extern const Table kAvx512Table;
extern const Table kAvx512Bf16Table;
extern const Table kAmxTable;
#endif

namespace {

/// Slowest first.
const std::vector<const Table*>& usable_tables() {
  static const std::vector<const Table*> tables = [] {
    std::vector<const Table*> found = {&kPortableTable};
#if defined(POCKETVLM_X86_KERNELS)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kAvx2Table);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      found.push_back(&kAvx512Table);
      if (__builtin_cpu_supports("avx512bf16")) {
        found.push_back(&kAvx512Bf16Table);
        if (may_use_amx()) found.push_back(&kAmxTable);
      }
    }
#endif
    return found;
  }();
  return tables;
}

const Table& choose_table() {
  const char* wanted = std::getenv("POCKETVLM_KERNELS");
  if (wanted == nullptr || *wanted == '\0') return *usable_tables().back();
  for (const Table* table : usable_tables()) {
    if (std::string_view(table->name) == wanted) return *table;
  }
  fail("POCKETVLM_KERNELS={}: this machine cannot run such kernels; unset it, or use portable, avx2, avx512, avx512bf16 or amx", wanted);
}

}  // namespace

const Table& table() {
  static const Table& chosen = choose_table();
  return chosen;
}

int64_t num_tables() { return static_cast<int64_t>(usable_tables().size()); }

const Table& table_at(int64_t index) { return *usable_tables().at(static_cast<std::size_t>(index)); }

}  // namespace pocketvlm::kernels
