#include "data/tar.h"

#include "base/log.h"
#include "data/conversation_record.h"
#include "data/record_file.h"

namespace pocketvlm {

TarSource::TarSource(const std::string& path, const DecodeOptions& decode, const IndexOptions& index)
    : file_(path),
      decode_(decode),
      index_(file_,
             "tar",
             index,
             [&] {
               std::string table = TarTable::make(read_tar_index({file_.data(), file_.size()}, path));
               file_.release(0, file_.size());
               return table;
             }),
      table_(index_.table(), path) {
  if (!table_.has_end_mark()) spdlog::warn("{}: the archive has no end mark; it may be cut off", path);
}

const TarTable::ShardSample& TarSource::sample(std::int64_t index) const {
  PV_CHECK(index >= 0 && index < size(), "{}: there is no sample {} of {}", name(), index, size());
  return table_.sample(index);
}

std::string TarSource::place(std::int64_t index) const { return printable(table_.key(sample(index))); }

std::span<const std::byte> TarSource::member_bytes(const TarTable::Member& member) const {
  PV_CHECK(member.offset <= file_.size() && member.bytes <= file_.size() - member.offset,
           "{}: {} lies beyond its end; remove its index",
           name(),
           printable(table_.name(member)));
  return {file_.data() + member.offset, member.bytes};
}

const TarTable::Member* TarSource::find_picture(const TarTable::ShardSample& sample, const std::string& name) const {
  const std::string_view key = table_.key(sample);
  const std::size_t slash = key.rfind('/');
  const std::string folder(slash == std::string_view::npos ? std::string_view() : key.substr(0, slash + 1));
  const std::string_view picture = without_dot_folder(name);
  if (const TarTable::Member* found = table_.find(folder + std::string(picture))) return found;
  if (const TarTable::Member* found = table_.find(picture)) return found;
  // Records often keep the path that the picture had before it was packed.
  return sample.num_pictures == 1 ? &table_.picture(sample, 0) : nullptr;
}

Sample TarSource::read(std::int64_t index, const DecodeOptions& decode) const {
  const TarTable::ShardSample& shard_sample = sample(index);
  const std::string key(table_.key(shard_sample));
  const SamplePlace place{name(), printable(key)};
  if (shard_sample.twice >= 0) {
    place.damaged(
        "duplicate member",
        fmt::format("{} is in the archive more than once", printable(table_.name(table_.member(shard_sample.twice)))));
  }
  if (shard_sample.record < 0) {
    place.damaged("no conversation",
                  fmt::format("there is no {}.json", printable(key)));
  }
  const std::span<const std::byte> record_bytes = member_bytes(table_.member(shard_sample.record));
  const Json record = parse_record(
      {reinterpret_cast<const char*>(record_bytes.data()), record_bytes.size()}, place);
  std::string implied;
  if (shard_sample.num_pictures == 1) implied = table_.name(table_.picture(shard_sample, 0));
  if (shard_sample.num_pictures > 1 && !names_pictures(record)) {
    place.damaged("ambiguous image",
                  fmt::format("{} has {} pictures; name one in \"image\"",
                              printable(key),
                              shard_sample.num_pictures));
  }
  return read_conversation(
      record,
      place,
      key,
      [&](const std::string& picture) {
        const TarTable::Member* found = find_picture(shard_sample, picture);
        if (found == nullptr) {
          place.damaged("missing image",
                        fmt::format("{} is not in the archive", printable(picture)));
        }
        Image image = decode_picture(member_bytes(*found), std::string(table_.name(*found)), place, decode);
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
