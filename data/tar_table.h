#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tar_index.h"

namespace pocketvlm {

/// What a WebDataset shard holds, as one run of bytes that can be kept in a file and used where it lies: the members that are
/// conversations or pictures, the samples that they form, and their names in order. Small: some 60 bytes a member and its name.
class TarTable {
 public:
  struct Member {
    std::uint64_t offset, bytes;  // in the archive
    std::uint64_t name;           // where it begins among the names
    std::uint64_t name_bytes;
  };
  struct ShardSample {
    std::uint64_t key, key_bytes;  // among the names
    std::int64_t record;           // member places; -1: none
    std::int64_t twice;            // a member whose name appears more than once; -1: none
    std::uint64_t first_picture, num_pictures;
  };

  /// The table of these members. Samples stand in the order of their first member.
  static std::string make(const TarIndex& index);

  /// A view of `bytes` (at a multiple of 8) that stay where they are. Throws Error with `where` when they are no table.
  TarTable(std::span<const std::byte> bytes, const std::string& where);

  bool has_end_mark() const { return head_->has_end_mark != 0; }
  std::int64_t num_samples() const { return static_cast<std::int64_t>(samples_.size()); }
  const ShardSample& sample(std::int64_t index) const { return samples_[static_cast<std::size_t>(index)]; }
  const Member& member(std::int64_t place) const { return members_[static_cast<std::size_t>(place)]; }
  const Member& picture(const ShardSample& sample, std::uint64_t number) const {
    return members_[pictures_[sample.first_picture + number]];
  }
  std::string_view name(const Member& member) const { return names_.substr(member.name, member.name_bytes); }
  std::string_view key(const ShardSample& sample) const { return names_.substr(sample.key, sample.key_bytes); }
  /// The first member of that name, or null.
  const Member* find(std::string_view name) const;

 private:
  struct Head {
    std::uint64_t members, samples, pictures, distinct, name_bytes, has_end_mark;
  };
  const Head* head_;
  std::span<const Member> members_;
  std::span<const ShardSample> samples_;
  std::span<const std::uint64_t> pictures_;  // of the samples, as member places
  std::span<const std::uint64_t> by_name_;   // member places in the order of their names
  std::string_view names_;
};

/// "./a/b.jpg" is a/b.jpg.
std::string_view without_dot_folder(std::string_view name);

}  // namespace pocketvlm
