#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/sample.h"

namespace pocketvlm {

/// Several finite sources, one after the other, as one: the shards of a data set.
class ConcatenatedSource : public SampleSource {
 public:
  ConcatenatedSource(std::string name, std::vector<std::unique_ptr<SampleSource>> parts);
  std::int64_t size() const override { return ends_.empty() ? 0 : ends_.back(); }
  Sample at(std::int64_t index) const override;
  Sample outline(std::int64_t index) const override;
  std::string name() const override { return name_; }
  /// The file that holds the sample, and its place there.
  std::string place(std::int64_t index) const override;
  std::optional<std::int64_t> file_number(std::int64_t index) const override;

 private:
  struct Found {
    const SampleSource* source;
    std::int64_t index;
  };
  Found find(std::int64_t index) const;

  std::string name_;
  std::vector<std::unique_ptr<SampleSource>> parts_;
  std::vector<std::int64_t> ends_;  // samples up to the end of each part
};

/// The files that a path means: itself, or, when its last part holds * or ?, the regular files of
/// the folder whose names match, in the order of their names. Throws Error when nothing matches.
std::vector<std::string> matching_files(const std::string& path);

}  // namespace pocketvlm
