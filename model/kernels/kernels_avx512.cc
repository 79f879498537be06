#include "model/kernels/table_body.h"

namespace pocketvlm::kernels {

extern const Table kAvx512Table;
const Table kAvx512Table = make_table("avx512");

}  // namespace pocketvlm::kernels
