#include "model/kernels/table_body.h"

namespace pocketvlm::kernels {

extern const Table kAvx512Bf16Table;
const Table kAvx512Bf16Table = make_table("avx512bf16");

}  // namespace pocketvlm::kernels
