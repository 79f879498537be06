#pragma once

#include <map>
#include <string>

#include "model/config.h"

namespace pocketvlm {

/// Every kind of vision part that a config can ask for, small: towers of SigLIP, of 2.0, of 2.5 as released and of CLIP; all
/// projectors. By a name for messages.
std::map<std::string, ModelConfig> tiny_vision_parts();

/// A checkpoint of the vision part alone, with weights of order one.
void save_tiny_vision(const ModelConfig& config, const std::string& folder);

}  // namespace pocketvlm
