#include "data/record_file.h"

#include <limits>

#include "base/error.h"
#include "data/json_scanner.h"

namespace pocketvlm {
namespace {

/// Bytes of the UTF-8 character at `i`, 0 when there is none.
std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char first = byte(i);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                             : (first & 0xf0) == 0xe0         ? 3
                             : first >= 0xf0 && first <= 0xf4 ? 4
                                                              : 0;
  if (length == 0 || i + length > text.size()) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(i + 1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f)) return 0;
  if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;
  return length;
}

std::string_view without_byte_order_mark(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  return text;
}

/// Gathers records of a file, as they are kept.
class RecordList {
 public:
  explicit RecordList(const MappedFile& file)
      : path_(file.path()), whole_(reinterpret_cast<const char*>(file.data()), file.size()), text_(without_byte_order_mark(whole_)) {}

  std::string_view text() const { return text_; }
  const std::string& path() const { return path_; }

  /// Places in the text.
  void add(std::size_t begin, std::size_t end, std::size_t line) {
    constexpr std::size_t kMost = std::numeric_limits<std::uint32_t>::max();
    PV_CHECK(end - begin <= kMost, "{}: line {}: the record is longer than 4 GiB", path_, line);
    PV_CHECK(line <= kMost, "{}: more than {} lines; split the file", path_, kMost);
    const RecordFile::Record record = {
        whole_.size() - text_.size() + begin, static_cast<std::uint32_t>(end - begin), static_cast<std::uint32_t>(line)};
    bytes_.append(reinterpret_cast<const char*>(&record), sizeof(record));
  }
  std::string take() { return std::move(bytes_); }

 private:
  const std::string& path_;
  std::string_view whole_, text_;
  std::string bytes_;
};

std::string find_lines(const MappedFile& file) {
  RecordList records(file);
  const std::string_view text = records.text();
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    ++line;
    const std::size_t newline = std::min(text.find('\n', begin), text.size());
    std::size_t end = newline;
    if (end > begin && text[end - 1] == '\r') --end;
    if (text.substr(begin, end - begin).find_first_not_of(" \t\r\v\f") != std::string_view::npos) {
      records.add(begin, end, line);
    }
    begin = newline + 1;
  }
  return records.take();
}

std::string find_elements(const MappedFile& file) {
  RecordList records(file);
  scan_json_list(records.text(), records.path(), [&](std::size_t begin, std::size_t end, std::size_t line) {
    records.add(begin, end, line);
  });
  return records.take();
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (out.size() >= max_bytes) return out + "...";
    const std::size_t length = utf8_length(text, i);
    if (length == 0 ||
        (length == 1 && (static_cast<unsigned char>(text[i]) < 0x20 || text[i] == 0x7f))) {
      out += "\xef\xbf\xbd";
      ++i;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out;
}

RecordFile::RecordFile(const std::string& path, Form form, const IndexOptions& index)
    : file_(path),
      form_(form),
      index_(file_, form == Form::kJsonList ? "list" : "lines", index, [&] {
        std::string records = form == Form::kJsonList ? find_elements(file_) : find_lines(file_);
        file_.release(0, file_.size());
        return records;
      }) {}

std::span<const RecordFile::Record> RecordFile::records() const {
  const std::span<const std::byte> table = index_.table();
  return {reinterpret_cast<const Record*>(table.data()), table.size() / sizeof(Record)};
}

std::string_view RecordFile::record(std::int64_t index) const {
  PV_CHECK(index >= 0 && index < size(), "{}: there is no record {} of {}", path(), index, size());
  const Record& record = records()[static_cast<std::size_t>(index)];
  PV_CHECK(record.offset <= file_.size() && record.bytes <= file_.size() - record.offset,
           "{}: record {} lies beyond its end; remove its index",
           path(),
           index);
  return {reinterpret_cast<const char*>(file_.data()) + record.offset, record.bytes};
}

std::string RecordFile::place(std::int64_t index) const {
  PV_CHECK(index >= 0 && index < size(), "{}: there is no record {} of {}", path(), index, size());
  const std::uint32_t line = records()[static_cast<std::size_t>(index)].line;
  return form_ == Form::kJsonList ? fmt::format("[{}], line {}", index, line)
                                  : fmt::format("line {}", line);
}

}  // namespace pocketvlm
