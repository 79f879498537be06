#include "model/kernels/table_body.h"

namespace pocketvlm::kernels {

extern const Table kPortableTable;
const Table kPortableTable = make_table("portable");

}  // namespace pocketvlm::kernels
