#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/conversations.h"

namespace pocketvlm {

/// A regular file inside an archive. Names are only compared, never used as paths on disk.
struct TarMember {
  std::string name;
  std::uint64_t offset = 0;  // of its bytes
  std::uint64_t bytes = 0;
};

/// Lists the regular files of an archive: ustar, pax (path, size) and GNU long names; links, folders and
/// devices are passed over. Throws Error with `where` and the byte offset when a header's checksum, a
/// number or a size is wrong, when the archive is cut off, or when it is compressed or sparse.
std::vector<TarMember> read_tar_index(std::span<const std::byte> bytes, const std::string& where);

/// A WebDataset shard: KEY.json (a conversation) with KEY.jpg, .jpeg, .png or .webp. Members of a sample
/// need not be neighbours. A picture is found by the name the record gives (beside KEY or in full), else it
/// is the one picture of KEY. Samples stand in the order of their first member; a picture without KEY.json
/// and a member that appears twice are damaged samples.
class TarSource : public SampleSource {
 public:
  explicit TarSource(const std::string& path, const DecodeOptions& decode = {});
  std::int64_t size() const override { return static_cast<std::int64_t>(samples_.size()); }
  Sample at(std::int64_t index) const override;
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override;

 private:
  struct ShardSample {
    std::string key;
    std::int64_t record = -1;                // member places; -1: none
    std::vector<std::int64_t> pictures;
    std::string twice;                       // a name that appears more than once
  };
  const ShardSample& sample(std::int64_t index) const;
  const TarMember& member(std::int64_t place) const { return members_[static_cast<std::size_t>(place)]; }
  std::span<const std::byte> member_bytes(const TarMember& member) const;
  const TarMember* find_picture(const ShardSample& sample, const std::string& name) const;
  void group_members();

  MappedFile file_;
  DecodeOptions decode_;
  std::vector<TarMember> members_;
  std::unordered_map<std::string, std::int64_t> by_name_;
  std::vector<ShardSample> samples_;
};

}  // namespace pocketvlm
