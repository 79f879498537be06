#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// What MiniCPM-V 2.6 reads of a video (docs/minicpm_v2dot6_en.md of its repository).
constexpr std::int64_t kMaxVideoFrames = 64;
constexpr std::int64_t kVideoMaxSlices = 2;

/// Changes a model's settings to those it reads the frames of a video with: no image ids, and where pictures are sliced, two tiles a
/// frame at most.
void set_for_video(PromptConfig& prompt, ImageConfig& image);
/// The same encoder with these settings.
PromptEncoder encoder_for_video(const PromptEncoder& encoder);

/// The frames that stand for a video, by number: one a second, and of more than `max_frames` those in the middle of `max_frames` equal
/// stretches. Throws Error when a number is not positive.
std::vector<std::int64_t> video_frames(std::int64_t num_frames, double frames_per_second, std::int64_t max_frames = kMaxVideoFrames);

/// All pictures of a folder with one a frame, in the order of their names. Throws Error when the folder holds none.
std::vector<std::string> frame_files(const std::string& folder);

/// A video as a folder with one picture a frame, in the order of their names: the files of its frames. Throws Error when the folder
/// holds none.
std::vector<std::string> video_frame_files(const std::string& folder, double frames_per_second, std::int64_t max_frames = kMaxVideoFrames);

}  // namespace pocketvlm
