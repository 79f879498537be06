#pragma once

#include "data/preprocess/prompt.h"
#include "data/preprocess/video_frames.h"

namespace pocketvlm {

/// How MiniCPM-V 2.6 reads the frames of a video: without image ids, in two slices each at most.
inline void read_as_video(PromptConfig& prompt, ImageConfig& image) {
  prompt.use_image_id = false;
  if (image.mode == "slices") image.max_slices = kVideoMaxSlices;
}

}  // namespace pocketvlm
