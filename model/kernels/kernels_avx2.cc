#include "model/kernels/table_body.h"

namespace pocketvlm::kernels {

extern const Table kAvx2Table;
const Table kAvx2Table = make_table("avx2");

}  // namespace pocketvlm::kernels
