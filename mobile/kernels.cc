#include "mobile/kernels.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "mobile/kernels_simd.h"
#include "mobile/packed_formats.h"

namespace pocketvlm {

MatmulFunction matmul_for(const Kernels& kernels, GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return kernels.matmul_f32;
    case GgmlType::kF16:
      return kernels.matmul_f16;
    case GgmlType::kBF16:
      return kernels.matmul_bf16;
    case GgmlType::kQ8_0:
      return kernels.matmul_q8_0;
    case GgmlType::kQ4_0:
      return kernels.matmul_q4_0;
    case GgmlType::kQ4_1:
      return kernels.matmul_q4_1;
    case GgmlType::kQ5_0:
      return kernels.matmul_q5_0;
    case GgmlType::kQ5_1:
      return kernels.matmul_q5_1;
    case GgmlType::kQ4_K:
      return kernels.matmul_q4_k;
    case GgmlType::kQ5_K:
      return kernels.matmul_q5_k;
    case GgmlType::kQ6_K:
      return kernels.matmul_q6_k;
    default:
      fail(
          "tensor type {} cannot be computed with; supported are f32, f16, bf16, q8_0, q4_0, q4_1, "
          "q5_0, q5_1, q4_K, "
          "q5_K, q6_K",
          type_info(type).name);
  }
}

PackedMatmulFunction packed_matmul_for(const Kernels& kernels,
                                       GgmlType type,
                                       std::int64_t columns) {
  if (kernels.packed_matmul == nullptr || !can_pack(type, columns)) return nullptr;
  return kernels.packed_matmul(type);
}

bool needs_quantized_input(GgmlType type) {
  return type != GgmlType::kF32 && type != GgmlType::kF16 && type != GgmlType::kBF16;
}

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> tables;
  append_simd_kernels(tables);
  tables.push_back(&scalar_kernels());
  return tables;
}

const Kernels& choose_kernels(const std::string& name) {
  const std::vector<const Kernels*> tables = available_kernels();
  if (name == "auto") return *tables.front();
  std::vector<std::string> names = {"auto"};
  for (const Kernels* table : tables) {
    if (name == table->name) return *table;
    names.emplace_back(table->name);
  }
  fail("kernels \"{}\" are not available on this processor; choose one of {}",
       name,
       fmt::join(names, ", "));
}

}  // namespace pocketvlm
