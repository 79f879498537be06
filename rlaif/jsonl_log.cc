#include "rlaif/jsonl_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/files.h"

namespace pocketvlm {
namespace {

struct Lines {
  std::vector<Json> rows;
  std::vector<std::size_t> ends;  // byte behind each row
  std::size_t size = 0;           // of the whole file
};

Lines read_lines(const std::string& path) {
  const std::string bytes = std::filesystem::exists(path) ? read_file(path) : "";
  Lines lines;
  lines.size = bytes.size();
  std::size_t begin = 0;
  while (begin < bytes.size()) {
    const std::size_t end = bytes.find('\n', begin);
    if (end == std::string::npos) break;  // torn: its line feed was never written
    const std::string where = fmt::format("{}:{}", path, lines.rows.size() + 1);
    Json row;
    try {
      row = parse_json(std::string_view(bytes).substr(begin, end - begin), where);
      PV_CHECK(row.is_object(), "{}: not a JSON object", where);
    } catch (const Error& error) {
      // After a power cut blocks can reach the disk out of order; only the last line may suffer
      // from that.
      if (end + 1 == bytes.size()) break;
      fail("{}; delete the file to make it again", error.what());
    }
    lines.rows.push_back(std::move(row));
    lines.ends.push_back(end + 1);
    begin = end + 1;
  }
  return lines;
}

}  // namespace

double number_of(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

std::vector<Json> read_jsonl(const std::string& path) { return read_lines(path).rows; }

JsonlLog::JsonlLog(std::string path, const WorkingRanks& ranks) : path_(std::move(path)) {
  if (!ranks.is_first()) {
    for (Json& row : told_by_first(ranks, {})) rows_.push_back(std::move(row));
    return;
  }
  Lines lines = read_lines(path_);
  rows_ = std::move(lines.rows);
  ends_ = std::move(lines.ends);
  if (ranks.size > 1) told_by_first(ranks, [&] { return Json(rows_); });
  file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  PV_CHECK(file_ >= 0, "{}: cannot be opened for writing: {}", path_, std::strerror(errno));
  if ((ends_.empty() ? 0 : ends_.back()) < lines.size) keep(rows_.size());
}

JsonlLog::~JsonlLog() {
  if (file_ >= 0) ::close(file_);
}

void JsonlLog::keep(std::size_t count) {
  rows_.resize(count);
  if (file_ < 0) return;
  ends_.resize(count);
  const std::size_t end = count == 0 ? 0 : ends_.back();
  PV_CHECK(::ftruncate(file_, static_cast<off_t>(end)) == 0 && ::fdatasync(file_) == 0,
           "{}: cannot be cut: {}",
           path_,
           std::strerror(errno));
}

void JsonlLog::append(const std::vector<Json>& rows) {
  if (file_ < 0) {
    rows_.insert(rows_.end(), rows.begin(), rows.end());
    return;
  }
  std::string bytes;
  std::size_t end = ends_.empty() ? 0 : ends_.back();
  const std::size_t begin = end;
  for (const Json& row : rows) {
    // An error text may hold bytes of a damaged file.
    const std::string line = row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    bytes += line;
    end += line.size();
    rows_.push_back(row);
    ends_.push_back(end);
  }
  std::size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t n = ::pwrite(
        file_, bytes.data() + written, bytes.size() - written, static_cast<off_t>(begin + written));
    if (n < 0 && errno == EINTR) continue;
    PV_CHECK(n > 0, "{}: cannot be written: {}", path_, std::strerror(errno));
    written += static_cast<std::size_t>(n);
  }
  PV_CHECK(::fdatasync(file_) == 0, "{}: cannot be written: {}", path_, std::strerror(errno));
}

}  // namespace pocketvlm
