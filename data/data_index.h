#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/files.h"

namespace pocketvlm {

/// Where the index of a data file is kept between starts.
struct IndexOptions {
  bool kept = false;        // false: it is made at every start and lives in memory
  bool writes = true;       // whether this process may write it; others use what they find
  std::string folder;       // empty: beside the data
  std::int64_t min_bytes = 0;  // of the data; none is kept of smaller files
};

/// A table that says where the samples of a data file are: read from a small file that an earlier start left (`index_path`), else made by
/// reading the data, and left for the next start. The small file is bound to the data by size, time of change and a hash of 64 KiB out of
/// all its parts, and to itself by a hash; one that does not fit or is damaged is made again, with one line in the log. It appears in one
/// step under its name, so that processes that start together see none or a whole one. Where it cannot be written the table lives in memory.
class DataIndex {
 public:
  /// `kind`: what makes the table, at most 8 letters; tables of two kinds never take each other's place. `make` reads the data.
  DataIndex(const MappedFile& data, const std::string& kind, const IndexOptions& options, const std::function<std::string()>& make);

  /// As `make` returned it; at a multiple of 8 bytes.
  std::span<const std::byte> table() const;
  /// Whether the data were not read.
  bool was_found() const { return was_found_; }

  /// `.NAME.KIND.index` beside the data; in a folder, with a hash of where the data are.
  static std::string index_path(const std::string& data, const std::string& kind, const IndexOptions& options);

 private:
  MappedFile file_;   // the kept index, if there is one
  std::string made_;  // else the table
  bool was_found_ = false;
};

}  // namespace pocketvlm
