#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "rlaif/working_ranks.h"

namespace pocketvlm {

/// Told after each stretch of work: the stage, and how much of it is done. What the process shows,
/// and where tests stop it.
using RoundObserver = std::function<void(const std::string& stage, std::int64_t done)>;

/// An append-only file of JSON lines that outlives a kill at any byte: opening it reads the whole
/// lines and cuts off a torn last one; every append is on the disk when it returns. One writer at a
/// time: of several ranks the first, the others are told what it read and keep the rows they are given.
class JsonlLog {
 public:
  /// Opens or creates the file. A line that is no JSON object is an Error naming file and line,
  /// unless it is the last.
  explicit JsonlLog(std::string path, const WorkingRanks& ranks = {});
  ~JsonlLog();
  JsonlLog(const JsonlLog&) = delete;
  JsonlLog& operator=(const JsonlLog&) = delete;

  const std::vector<Json>& rows() const { return rows_; }
  const std::string& path() const { return path_; }

  /// Keeps the first `count` rows and cuts the file behind them: a half-done group is made again as
  /// a whole, so that the composition of a batch, and with it the last bit of its results, does not
  /// depend on where the process was killed.
  void keep(std::size_t count);

  void append(const std::vector<Json>& rows);

 private:
  std::string path_;
  int file_ = -1;
  std::vector<Json> rows_;
  std::vector<std::size_t> ends_;  // byte behind each row
};

/// A number of a row; where it was NaN or infinite, JSON says null.
double number_of(const Json& value);

/// The rows of a file, which is not touched. A torn last line is left out; other damage is an Error.
std::vector<Json> read_jsonl(const std::string& path);

}  // namespace pocketvlm
