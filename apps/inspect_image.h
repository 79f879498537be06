#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `inspect image`: how a picture is cut for a model, its pixels, and a drawing of the slices.
void inspect_image(const CommandLine& line);

}  // namespace pocketvlm
