#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/files.h"
#include "data/data_index.h"
#include "data/preprocess/image.h"
#include "data/sample.h"
#include "data/tar_table.h"

namespace pocketvlm {

/// A WebDataset shard: KEY.json (a conversation) with KEY.jpg, .jpeg, .png or .webp. Members of a
/// sample need not be neighbours. A picture is found by the name the record gives (beside KEY or in
/// full), else it is the one picture of KEY. Samples stand in the order of their first member; a
/// picture without KEY.json and a member that appears twice are damaged samples.
class TarSource : public SampleSource {
 public:
  explicit TarSource(const std::string& path, const DecodeOptions& decode = {}, const IndexOptions& index = {});
  std::int64_t size() const override { return table_.num_samples(); }
  Sample at(std::int64_t index) const override { return read(index, decode_); }
  Sample outline(std::int64_t index) const override { return read(index, decode_.for_sizes()); }
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override;

 private:
  Sample read(std::int64_t index, const DecodeOptions& decode) const;
  const TarTable::ShardSample& sample(std::int64_t index) const;
  std::span<const std::byte> member_bytes(const TarTable::Member& member) const;
  const TarTable::Member* find_picture(const TarTable::ShardSample& sample, const std::string& name) const;

  MappedFile file_;
  DecodeOptions decode_;
  DataIndex index_;
  TarTable table_;  // a view of it
};

}  // namespace pocketvlm
