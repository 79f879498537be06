#include "data/record_video.h"

#include <filesystem>

#include "data/preprocess/video_frames.h"
#include "data/record_file.h"

namespace pocketvlm {
namespace {

constexpr double kFolderFps = 30.0;  // as --video-fps of `generate`
constexpr double kListFps = 1.0;     // whoever lists frames has chosen them

[[noreturn]] void wrong_type(const SamplePlace& place, const char* key, const Json& value) {
  place.damaged("wrong type",
                fmt::format("\"{}\" must name a folder of frames or list their files, it holds {}",
                            key,
                            printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60)));
}

double read_fps(const Json& record, double otherwise, const SamplePlace& place) {
  const auto item = record.find("video_fps");
  if (item == record.end() || item->is_null()) return otherwise;
  if (!item->is_number() || item->get<double>() <= 0 || item->get<double>() > 1000) {
    place.damaged("wrong type",
                  fmt::format("\"video_fps\" must be a number above 0 and up to 1000, it is {}",
                              printable(item->dump(-1, ' ', false, Json::error_handler_t::replace), 60)));
  }
  return item->get<double>();
}

/// The value of "video", or the only one of "videos"; null: none.
Json video_of(const Json& record, const SamplePlace& place) {
  const Json video = record.value("video", Json());
  const Json videos = record.value("videos", Json());
  if (videos.empty()) return video;
  if (!video.empty())
    place.damaged("contradictory pictures", "there are both \"video\" and \"videos\"; keep one");
  if (!videos.is_array()) return videos;
  if (videos.size() > 1)
    place.damaged("several videos", fmt::format("\"videos\" names {}; a sample has one", videos.size()));
  return videos.front();
}

}  // namespace

std::optional<std::vector<std::string>> read_video(const Json& record,
                                                   const SamplePlace& place,
                                                   const FrameLister& list_frames) {
  const Json video = video_of(record, place);
  if (video.is_null()) return std::nullopt;
  const bool is_folder = video.is_string() && !video.get_ref<const std::string&>().empty();
  if (!is_folder && !video.is_array()) wrong_type(place, "video", video);
  std::vector<std::string> all;
  if (is_folder) {
    all = list_frames(video.get<std::string>());
  } else {
    for (const Json& name : video) {
      if (!name.is_string() || name.get_ref<const std::string&>().empty()) wrong_type(place, "video", video);
      all.push_back(name.get<std::string>());
    }
  }
  if (all.empty()) place.damaged("missing video", "\"video\" lists no frame");
  std::vector<std::string> chosen;
  const double fps = read_fps(record, is_folder ? kFolderFps : kListFps, place);
  for (const std::int64_t frame : video_frames(static_cast<std::int64_t>(all.size()), fps)) {
    chosen.push_back(all[static_cast<std::size_t>(frame)]);
  }
  return chosen;
}

void place_frames(std::vector<Turn>& turns, std::size_t num_frames, const SamplePlace& place) {
  Turn* marked = nullptr;
  PictureMark place_of_video{};
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "assistant") continue;  // there a mark is plain text
    for (const PictureMark& mark : find_picture_marks(turns[i].content)) {
      const std::string text = turns[i].content.substr(mark.begin, mark.bytes);
      if (turns[i].role != "user")
        place.damaged("image mark in a system turn", fmt::format("turn {} holds {}", i, text));
      if (text != kImageMark && text != kVideoMark) {
        place.damaged("image mark without image",
                      fmt::format("turn {} holds {}, the record names a video", i, text));
      }
      if (marked != nullptr)
        place.damaged("several video marks", fmt::format("turn {} holds one more {}", i, text));
      marked = &turns[i];
      place_of_video = mark;
    }
  }
  if (marked == nullptr) return;
  const std::string before = marked->content.substr(0, place_of_video.begin);
  const std::string after = marked->content.substr(place_of_video.begin + place_of_video.bytes);
  std::string text = before;
  for (std::size_t frame = 0; frame < num_frames; ++frame) {
    if (!text.empty() && text.back() != '\n') text += '\n';
    text += kImageMark;
  }
  if (!after.empty() && after.front() != '\n') text += '\n';
  marked->content = text + after;
}

std::vector<std::string> list_frame_files(const std::string& folder,
                                          const std::string& name,
                                          const SamplePlace& place) {
  if (name.find('\0') != std::string::npos)
    place.damaged("missing video", "the name of the folder holds a zero byte");
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  try {
    std::vector<std::string> names;
    for (const std::string& file : frame_files(path.string())) {
      names.push_back((std::filesystem::path(name) / std::filesystem::path(file).filename()).string());
    }
    return names;
  } catch (const std::exception& e) {
    place.damaged("missing video", printable(e.what(), 400));
  }
}

}  // namespace pocketvlm
