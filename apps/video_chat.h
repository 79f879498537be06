#pragma once

#include "apps/command_line.h"
#include "model/config.h"

namespace pocketvlm {

/// The pictures of a prompt: those of --image, or the frames of --video with the settings that MiniCPM-V 2.6 reads videos with: no image
/// ids, and two slices a frame at most unless --max-slices says otherwise. Throws Error when both are given.
std::vector<Image> prompt_pictures(const CommandLine& line, ModelConfig& config);

}  // namespace pocketvlm
