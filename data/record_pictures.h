#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/preprocess/image.h"
#include "data/sample.h"

namespace pocketvlm {

inline constexpr std::string_view kImageMark = "<image>";
inline constexpr std::string_view kVideoMark = "<video>";

/// "<image>", "<image_7>" or "<video>" in a text.
struct PictureMark {
  std::size_t begin;
  std::size_t bytes;
};
std::vector<PictureMark> find_picture_marks(std::string_view text);

/// Decodes the picture that a record calls `name`, or gives its outline.
using PictureReader = std::function<Image(const std::string& name)>;

/// The pictures that a record names: by mark ("<image_00>") in MiniCPM-V's map form, in order
/// otherwise.
struct RecordPictures {
  bool by_mark = false;
  bool is_video = false;  // the entries are the frames of a video
  std::vector<std::pair<std::string, std::string>>
      entries;  // mark (empty in the other forms), name
};

/// The pictures of a folder of frames in the order of their names, as names that a PictureReader
/// understands. Throws DamagedSample.
using FrameLister = std::function<std::vector<std::string>(const std::string& folder)>;

/// Whether the record itself says which pictures or which video it has.
bool names_pictures(const Json& record);

/// Reads what a record says of its pictures: "image" (or "images"): a path, a list of paths, or a map
/// from marks to paths; or "video" (or "videos" with one entry), of which the frames are chosen as
/// data/preprocess/video_frames.h says: a folder of frames, of which "video_fps" (30) are a second, or
/// a list of frames, of which each is one a second unless "video_fps" says otherwise. `implied`: used
/// when the record names none; empty: none. Throws DamagedSample, also for sound, which nothing here
/// could hear.
RecordPictures read_pictures(const Json& record,
                             const SamplePlace& place,
                             const std::string& implied,
                             const FrameLister& list_frames);

/// The names of the pictures in the order of their marks in the user turns; named marks become
/// "<image>", the one mark of a video ("<video>" or "<image>") one such mark a frame. Throws
/// DamagedSample when marks and pictures do not belong together.
std::vector<std::string> place_pictures(std::vector<Turn>& turns,
                                        const RecordPictures& pictures,
                                        const SamplePlace& place);

/// Decodes a picture of a sample. Throws DamagedSample: not an image, too large, or damaged.
Image decode_picture(std::span<const std::byte> bytes,
                     const std::string& name,
                     const SamplePlace& place,
                     const DecodeOptions& options);

/// The frames in a folder, `name` relative to `folder`. Throws DamagedSample.
std::vector<std::string> list_frame_files(const std::string& folder,
                                          const std::string& name,
                                          const SamplePlace& place);

/// Reads a picture file, `name` relative to `folder`. Throws DamagedSample.
Image load_picture(const std::string& folder,
                   const std::string& name,
                   const SamplePlace& place,
                   const DecodeOptions& options);

}  // namespace pocketvlm
