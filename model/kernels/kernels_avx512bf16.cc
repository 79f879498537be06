#include "model/kernels/pair_attention_body.h"

namespace pocketvlm::kernels {

extern const Table kAvx512Bf16Table;

namespace {

constexpr Table bf16_table() {
  Table table = make_table("avx512bf16");
  use_pair_attention<DotProducts>(table);
  return table;
}

}  // namespace

const Table kAvx512Bf16Table = bf16_table();

}  // namespace pocketvlm::kernels
