#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "base/json.h"

namespace pocketvlm {

/// Append-only JSON lines. An interrupted run cuts the file back to where its saved state stands,
/// so that no line is lost or written twice.
class MetricsLog {
 public:
  /// Opens `path` and cuts it to `bytes`. Throws Error when it is shorter.
  MetricsLog(const std::string& path, std::int64_t bytes);

  void append(const Json& line);
  const std::string& path() const { return path_; }
  /// Length of the file. What of it is on disk already is up to the system.
  std::int64_t bytes() const;

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace pocketvlm
