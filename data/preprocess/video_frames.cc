#include "data/preprocess/video_frames.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>

#include "base/error.h"

namespace pocketvlm {

void set_for_video(PromptConfig& prompt, ImageConfig& image) {
  prompt.use_image_id = false;
  if (image.mode == "slices") image.max_slices = std::min(image.max_slices, kVideoMaxSlices);
}

PromptEncoder encoder_for_video(const PromptEncoder& encoder) {
  PromptConfig prompt = encoder.prompt();
  ImageConfig image = encoder.image();
  set_for_video(prompt, image);
  return PromptEncoder(encoder.tokenizer(), prompt, image);
}

std::vector<std::int64_t> video_frames(std::int64_t num_frames, double frames_per_second, std::int64_t max_frames) {
  PV_CHECK(num_frames > 0 && max_frames > 0, "video: {} frames of which {} may be read; both must be positive", num_frames, max_frames);
  PV_CHECK(frames_per_second > 0 && frames_per_second < 1e6, "video: {} frames a second; it must be more than 0 and less than a million", frames_per_second);
  // Halves go to the even number, as Python rounds.
  const auto step = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::nearbyint(frames_per_second)));
  std::vector<std::int64_t> each_second;
  for (std::int64_t frame = 0; frame < num_frames; frame += step) each_second.push_back(frame);
  const auto count = static_cast<std::int64_t>(each_second.size());
  if (count <= max_frames) return each_second;
  const double gap = static_cast<double>(count) / static_cast<double>(max_frames);
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < max_frames; ++i) {
    chosen.push_back(each_second[static_cast<std::size_t>(static_cast<double>(i) * gap + gap / 2)]);
  }
  return chosen;
}

std::vector<std::string> frame_files(const std::string& folder) {
  namespace fs = std::filesystem;
  PV_CHECK(fs::is_directory(folder), "{}: no such folder; a video is given as a folder with one picture a frame", folder);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string ending = entry.path().extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const bool picture = ending == ".png" || ending == ".jpg" || ending == ".jpeg" || ending == ".webp" || ending == ".gif";
    if (picture && entry.is_regular_file()) files.push_back(entry.path().string());
  }
  PV_CHECK(!files.empty(), "{}: holds no pictures (.png, .jpg, .webp, .gif); write the video's frames there, e.g. ffmpeg -i v.mp4 {}/%06d.jpg", folder, folder);
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> video_frame_files(const std::string& folder, double frames_per_second, std::int64_t max_frames) {
  const std::vector<std::string> files = frame_files(folder);
  std::vector<std::string> chosen;
  for (const std::int64_t frame : video_frames(static_cast<std::int64_t>(files.size()), frames_per_second, max_frames)) {
    chosen.push_back(files[static_cast<std::size_t>(frame)]);
  }
  return chosen;
}

}  // namespace pocketvlm
