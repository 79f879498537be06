#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pocketvlm {

/// What MiniCPM-V 2.6 reads of a video (docs/minicpm_v2dot6_en.md of its repository).
constexpr std::int64_t kMaxVideoFrames = 64;
constexpr std::int64_t kVideoMaxSlices = 2;

/// The frames that stand for a video, by number: one a second, and of more than `max_frames` those in the middle of `max_frames` equal
/// stretches. Throws Error when a number is not positive.
std::vector<std::int64_t> video_frames(std::int64_t num_frames, double frames_per_second, std::int64_t max_frames = kMaxVideoFrames);

/// A video as a folder with one picture a frame, in the order of their names: the files of its frames. Throws Error when the folder
/// holds none.
std::vector<std::string> video_frame_files(const std::string& folder, double frames_per_second, std::int64_t max_frames = kMaxVideoFrames);

}  // namespace pocketvlm
