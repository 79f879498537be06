#pragma once

#include <string>

#include "model/config.h"

namespace pocketvlm {

/// The model that a preset's name, a config file or a checkpoint folder means. Throws Error naming it.
ModelConfig named_model(const std::string& model);

}  // namespace pocketvlm
