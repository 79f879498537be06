#pragma once

#include <cstdint>
#include <string>

#include "trainer/stage_config.h"

namespace pocketvlm {

/// Throws Error when `folder` was begun with another configuration, naming the field; what cannot change the result may differ.
///   packs_then   packs of all ranks in an optimizer step of the run that wrote the folder; 0: unknown
void check_same_config(const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks);

}  // namespace pocketvlm
