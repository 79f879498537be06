#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/files.h"
#include "data/preprocess/image.h"
#include "data/sample.h"
#include "data/tar_index.h"

namespace pocketvlm {

/// A WebDataset shard: KEY.json (a conversation) with KEY.jpg, .jpeg, .png or .webp. Members of a
/// sample need not be neighbours. A picture is found by the name the record gives (beside KEY or in
/// full), else it is the one picture of KEY. Samples stand in the order of their first member; a
/// picture without KEY.json and a member that appears twice are damaged samples.
class TarSource : public SampleSource {
 public:
  explicit TarSource(const std::string& path, const DecodeOptions& decode = {});
  std::int64_t size() const override { return static_cast<std::int64_t>(samples_.size()); }
  Sample at(std::int64_t index) const override { return read(index, decode_); }
  Sample outline(std::int64_t index) const override { return read(index, decode_.for_sizes()); }
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override;

 private:
  Sample read(std::int64_t index, const DecodeOptions& decode) const;
  struct ShardSample {
    std::string key;
    std::int64_t record = -1;  // member places; -1: none
    std::vector<std::int64_t> pictures;
    std::string twice;  // a name that appears more than once
  };
  const ShardSample& sample(std::int64_t index) const;
  const TarMember& member(std::int64_t place) const {
    return members_[static_cast<std::size_t>(place)];
  }
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
