#include "apps/video_chat.h"

#include "base/error.h"
#include "data/preprocess/video_frames.h"

namespace pocketvlm {

std::vector<Image> prompt_pictures(const CommandLine& line, ModelConfig& config) {
  std::vector<Image> pictures;
  if (line.video.empty()) {
    for (const std::string& path : line.images) pictures.push_back(load_image(path, decode_options(config.image)));
    return pictures;
  }
  PV_CHECK(line.images.empty(), "--video and --image cannot be given together; a video's pictures are its frames");
  const std::int64_t max_slices = config.image.max_slices;
  set_for_video(config.prompt, config.image);
  if (line.max_slices > 0) config.image.max_slices = max_slices;
  for (const std::string& path : video_frame_files(line.video, line.video_fps)) {
    pictures.push_back(load_image(path, decode_options(config.image)));
  }
  return pictures;
}

}  // namespace pocketvlm
