#include "data/record_pictures.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include "base/files.h"
#include "data/record_file.h"
#include "data/record_video.h"

namespace pocketvlm {
namespace {

/// Replaces named marks by "<image>" on lines of their own and appends the names they stand for.
std::string place_named_marks(const std::string& content,
                              const RecordPictures& pictures,
                              std::vector<std::string>& names,
                              const SamplePlace& place) {
  std::string out;
  std::size_t done = 0;
  for (const PictureMark& mark : find_picture_marks(content)) {
    const std::string key = content.substr(mark.begin, mark.bytes);
    const auto entry = std::find_if(pictures.entries.begin(),
                                    pictures.entries.end(),
                                    [&](const auto& e) { return e.first == key; });
    if (entry == pictures.entries.end()) {
      place.damaged("image mark without image",
                    fmt::format("{} is not among the keys of \"image\"", key));
    }
    names.push_back(entry->second);
    out += content.substr(done, mark.begin - done);
    if (!out.empty() && out.back() != '\n') out += '\n';
    out += kImageMark;
    done = mark.begin + mark.bytes;
    if (done < content.size() && content[done] != '\n') out += '\n';
  }
  return out + content.substr(done);
}

bool looks_like_a_picture(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text.starts_with("\xff\xd8\xff") || text.starts_with("\x89PNG\r\n\x1a\n") ||
         text.starts_with("GIF8") ||
         (text.starts_with("RIFF") && text.substr(0, 12).ends_with("WEBP"));
}

/// The value of "image", or that of "images", which other formats say; null: neither.
Json images_of(const Json& record, const SamplePlace& place) {
  Json image = record.value("image", Json());
  Json images = record.value("images", Json());
  if (!image.empty() && !images.empty())
    place.damaged("contradictory pictures", "there are both \"image\" and \"images\"; keep one");
  return image.empty() && !images.empty() ? images : image;
}

}  // namespace

std::vector<PictureMark> find_picture_marks(std::string_view text) {
  std::vector<PictureMark> marks;
  for (std::size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
    if (text.substr(at).starts_with(kVideoMark)) marks.push_back({at, kVideoMark.size()});
    if (!text.substr(at).starts_with("<image")) continue;
    std::size_t end = at + 6;
    if (end < text.size() && text[end] == '_') {
      const std::size_t digits = end + 1;
      for (end = digits;
           end < text.size() && std::isdigit(static_cast<unsigned char>(text[end])) != 0;)
        ++end;
      if (end == digits) continue;
    }
    if (end < text.size() && text[end] == '>') marks.push_back({at, end + 1 - at});
  }
  return marks;
}

bool names_pictures(const Json& record) {
  if (!record.is_object()) return false;
  for (const char* key : {"image", "images", "video", "videos"}) {
    if (record.contains(key) && !record[key].is_null()) return true;
  }
  return false;
}

RecordPictures read_pictures(const Json& record,
                             const SamplePlace& place,
                             const std::string& implied,
                             const FrameLister& list_frames) {
  for (const char* key : {"audio", "audios"}) {
    if (record.contains(key) && !record[key].is_null())
      place.damaged("sound", fmt::format("\"{}\": samples with sound cannot be used", key));
  }
  RecordPictures pictures;
  const Json images = images_of(record, place);
  if (auto frames = read_video(record, place, list_frames)) {
    if (!images.empty())
      place.damaged("contradictory pictures", "there are both pictures and a video; keep one");
    pictures.is_video = true;
    for (std::string& name : *frames) pictures.entries.emplace_back("", std::move(name));
    return pictures;
  }
  const auto add = [&](const std::string& mark, const Json& name) {
    if (!name.is_string() || name.get_ref<const std::string&>().empty()) {
      place.damaged(
          "wrong type",
          fmt::format("\"image\" must name files, it holds {}",
                      printable(name.dump(-1, ' ', false, Json::error_handler_t::replace), 60)));
    }
    pictures.entries.emplace_back(mark, name.get<std::string>());
  };
  if (images.is_null()) {
    if (!implied.empty()) pictures.entries.emplace_back("", implied);
  } else if (images.is_object()) {
    pictures.by_mark = true;
    for (auto entry = images.begin(); entry != images.end(); ++entry) {
      const std::vector<PictureMark> marks = find_picture_marks(entry.key());
      if (marks.size() != 1 || marks.front().bytes != entry.key().size() ||
          entry.key() == kVideoMark) {
        place.damaged("bad image mark",
                      fmt::format("the key \"{}\" of \"image\" must look like <image_00>",
                                  printable(entry.key(), 60)));
      }
      add(entry.key(), *entry);
    }
  } else if (images.is_array()) {
    for (const Json& name : images) add("", name);
  } else {
    add("", images);
  }
  return pictures;
}

std::vector<std::string> place_pictures(std::vector<Turn>& turns,
                                        const RecordPictures& pictures,
                                        const SamplePlace& place) {
  if (pictures.is_video) {
    place_frames(turns, pictures.entries.size(), place);
    std::vector<std::string> frames;
    for (const auto& [mark, name] : pictures.entries) frames.push_back(name);
    return frames;
  }
  std::size_t marks = 0;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "assistant") continue;  // there a mark is plain text
    for (const PictureMark& mark : find_picture_marks(turns[i].content)) {
      const std::string text = turns[i].content.substr(mark.begin, mark.bytes);
      if (turns[i].role != "user")
        place.damaged("image mark in a system turn", fmt::format("turn {} holds {}", i, text));
      if (text == kVideoMark) {
        place.damaged("video mark without video",
                      fmt::format("turn {} holds {}, the record names no \"video\"", i, text));
      }
      if (!pictures.by_mark && (text != kImageMark || pictures.entries.empty())) {
        place.damaged("image mark without image",
                      fmt::format("turn {} holds {}, \"image\" names no such picture", i, text));
      }
      ++marks;
    }
  }
  std::vector<std::string> names;
  if (!pictures.by_mark || marks == 0) {
    for (const auto& [mark, name] : pictures.entries) names.push_back(name);
    if (marks != 0 && marks != names.size()) {
      place.damaged("image marks and images differ",
                    fmt::format("{} marks for {} pictures", marks, names.size()));
    }
    return names;
  }
  for (Turn& turn : turns) {
    if (turn.role == "user") turn.content = place_named_marks(turn.content, pictures, names, place);
  }
  for (const auto& [mark, name] : pictures.entries) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      place.damaged("image marks and images differ", fmt::format("no turn mentions {}", mark));
    }
  }
  return names;
}

Image decode_picture(std::span<const std::byte> bytes,
                     const std::string& name,
                     const SamplePlace& place,
                     const DecodeOptions& options) {
  const std::string shown = printable(name);
  if (!looks_like_a_picture(bytes)) {
    place.damaged(
        "not an image",
        fmt::format("{}: neither JPEG, PNG, WebP nor GIF ({} bytes)", shown, bytes.size()));
  }
  try {
    return decode_image(bytes, shown, options);
  } catch (const Error& e) {
    const std::string text = printable(e.what(), 400);
    place.damaged(text.find("megapixel") != std::string::npos ? "image too large" : "damaged image",
                  text);
  }
}

Image load_picture(const std::string& folder,
                   const std::string& name,
                   const SamplePlace& place,
                   const DecodeOptions& options) {
  if (name.find('\0') != std::string::npos)
    place.damaged("missing image", "the file name holds a zero byte");
  if (name.find("://") != std::string::npos) {
    place.damaged("missing image",
                  fmt::format("{} is an address; download it and name the file", printable(name)));
  }
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  std::error_code error;
  // Also keeps pipes and devices from being read without end.
  if (!std::filesystem::is_regular_file(path, error)) {
    place.damaged("missing image",
                  fmt::format("{}: there is no such file", printable(path.string())));
  }
  std::optional<MappedFile> file;
  try {
    file.emplace(path.string());
  } catch (const Error& e) {
    place.damaged("missing image", printable(e.what()));
  }
  return decode_picture({file->data(), file->size()}, path.string(), place, options);
}

}  // namespace pocketvlm
