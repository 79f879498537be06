#include "data/tar.h"

#include "data/conversation_record.h"
#include "data/record_file.h"

namespace pocketvlm {
namespace {

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

struct SplitName {
  std::string key;
  std::string extension;  // lower case, after the last dot of the last part
};

SplitName split_name(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  const std::size_t start = slash == std::string::npos ? 0 : slash + 1;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos || dot <= start) return {name, ""};
  return {name.substr(0, dot), lower(name.substr(dot + 1))};
}

bool is_picture(const std::string& extension) {
  return extension == "jpg" || extension == "jpeg" || extension == "png" || extension == "webp";
}

std::string without_dot_folder(std::string name) {
  while (name.starts_with("./")) name.erase(0, 2);
  return name;
}

}  // namespace

TarSource::TarSource(const std::string& path, const DecodeOptions& decode)
    : file_(path), decode_(decode), members_(read_tar_index({file_.data(), file_.size()}, path)) {
  group_members();
  file_.release(0, file_.size());
}

void TarSource::group_members() {
  std::unordered_map<std::string, std::size_t> by_key;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    std::string& name = members_[i].name;
    name = without_dot_folder(std::move(name));
    const auto [key, extension] = split_name(name);
    if (extension != "json" && !is_picture(extension)) continue;
    const auto [slot, is_new_key] = by_key.try_emplace(key, samples_.size());
    if (is_new_key) samples_.push_back({key, -1, {}, ""});
    ShardSample& sample = samples_[slot->second];
    if (!by_name_.try_emplace(name, static_cast<std::int64_t>(i)).second) {
      sample.twice = name;
    } else if (extension == "json") {
      sample.record = static_cast<std::int64_t>(i);
    } else {
      sample.pictures.push_back(static_cast<std::int64_t>(i));
    }
  }
  // "0001.mask.png" beside "0001.json" is an annotation or a further picture of 0001, no sample.
  std::erase_if(samples_, [&](const ShardSample& sample) {
    if (sample.record >= 0) return false;
    const std::size_t slash = sample.key.rfind('/');
    const std::size_t dot = sample.key.find('.', slash == std::string::npos ? 0 : slash + 1);
    return dot != std::string::npos && by_name_.contains(sample.key.substr(0, dot) + ".json");
  });
}

const TarSource::ShardSample& TarSource::sample(std::int64_t index) const {
  PV_CHECK(index >= 0 && index < size(), "{}: there is no sample {} of {}", name(), index, size());
  return samples_[static_cast<std::size_t>(index)];
}

std::string TarSource::place(std::int64_t index) const { return printable(sample(index).key); }

std::span<const std::byte> TarSource::member_bytes(const TarMember& member) const {
  return {file_.data() + member.offset, member.bytes};
}

const TarMember* TarSource::find_picture(const ShardSample& sample, const std::string& name) const {
  const std::size_t slash = sample.key.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : sample.key.substr(0, slash + 1);
  for (const std::string& candidate :
       {folder + without_dot_folder(name), without_dot_folder(name)}) {
    if (const auto found = by_name_.find(candidate); found != by_name_.end())
      return &member(found->second);
  }
  // Records often keep the path that the picture had before it was packed.
  return sample.pictures.size() == 1 ? &member(sample.pictures.front()) : nullptr;
}

Sample TarSource::read(std::int64_t index, const DecodeOptions& decode) const {
  const ShardSample& shard_sample = sample(index);
  const SamplePlace place{name(), printable(shard_sample.key)};
  if (!shard_sample.twice.empty()) {
    place.damaged(
        "duplicate member",
        fmt::format("{} is in the archive more than once", printable(shard_sample.twice)));
  }
  if (shard_sample.record < 0) {
    place.damaged("no conversation",
                  fmt::format("there is no {}.json", printable(shard_sample.key)));
  }
  const TarMember& record_member = member(shard_sample.record);
  const std::span<const std::byte> record_bytes = member_bytes(record_member);
  const Json record = parse_record(
      {reinterpret_cast<const char*>(record_bytes.data()), record_bytes.size()}, place);
  std::string implied;
  if (shard_sample.pictures.size() == 1) implied = member(shard_sample.pictures.front()).name;
  if (shard_sample.pictures.size() > 1 && !names_pictures(record)) {
    place.damaged("ambiguous image",
                  fmt::format("{} has {} pictures; name one in \"image\"",
                              printable(shard_sample.key),
                              shard_sample.pictures.size()));
  }
  return read_conversation(
      record,
      place,
      shard_sample.key,
      [&](const std::string& picture) {
        const TarMember* found = find_picture(shard_sample, picture);
        if (found == nullptr) {
          place.damaged("missing image",
                        fmt::format("{} is not in the archive", printable(picture)));
        }
        Image image = decode_picture(member_bytes(*found), found->name, place, decode);
        file_.release(found->offset, found->bytes);
        return image;
      },
      implied,
      [&](const std::string& frames) -> std::vector<std::string> {
        place.damaged("missing video",
                      fmt::format("{}: a shard has no folders; list the frames one by one", printable(frames)));
      });
}

}  // namespace pocketvlm
