#pragma once

namespace pocketvlm {

/// Whether the processor has AMX tiles of bytes and of bfloat16 (base/amx_tiles.h), and the kernel lets this process use them:
/// their state is large, so it wants to be asked (from Linux 5.16 on). False elsewhere than on x86-64.
bool may_use_amx();

}  // namespace pocketvlm
