#include "mobile/kernels_simd.h"

// Only the table: no instruction of AMX is in this file.
namespace pocketvlm {

const Kernels& amx_kernels() {
  static const Kernels kTable = [] {
    Kernels table = avx512_kernels();
    table.name = "amx";
    table.prompt_matmul = amx_prompt_matmul;
    table.prompt_matmul_rows = amx_prompt_matmul_rows;
    table.prompt_bytes = amx_prompt_bytes;
    table.pack_prompt = amx_pack_prompt;
    table.matmul_int8 = amx_matmul_int8;
    table.attend_bf16 = amx_attend;
    table.attend_causal = amx_attend_causal;
    return table;
  }();
  return kTable;
}

}  // namespace pocketvlm
