#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/files.h"
#include "data/data_index.h"

namespace pocketvlm {

/// The records of a data file, found without parsing them: the file stays mapped and each record
/// costs 16 bytes, so a million conversations open in seconds and memory stays small. With an index that is kept, in milliseconds.
///   kJsonList   one JSON list; a record is an element
///   kLines      a record is a line (JSONL, plain text); blank lines are none
/// Throws Error when the file cannot be read or, for a list, is not JSON: line and column are
/// named. What is wrong inside one record (an encoding fault, a double key) shows when that record
/// is parsed.
class RecordFile {
 public:
  enum class Form { kJsonList, kLines };
  RecordFile(const std::string& path, Form form, const IndexOptions& index = {});

  std::int64_t size() const { return static_cast<std::int64_t>(records().size()); }
  std::string_view record(std::int64_t index) const;
  /// "[3], line 57" in a list, "line 4" otherwise.
  std::string place(std::int64_t index) const;
  const std::string& path() const { return file_.path(); }

  struct Record {
    std::uint64_t offset;
    std::uint32_t bytes;
    std::uint32_t line;  // from 1
  };

 private:
  std::span<const Record> records() const;

  MappedFile file_;
  Form form_;
  DataIndex index_;
};

/// Whether the bytes are UTF-8 (no overlong forms, no surrogates).
bool is_utf8(std::string_view text);

/// The text with what is not UTF-8 or not printable replaced, cut to about `max_bytes`: safe for
/// logs and JSON.
std::string printable(std::string_view text, std::size_t max_bytes = 200);

}  // namespace pocketvlm
