#include "trainer/metrics_log.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace pocketvlm {

MetricsLog::MetricsLog(const std::string& path, std::int64_t bytes) : path_(path) {
  file_.reset(std::fopen(path.c_str(), "ab"));
  PV_CHECK(file_ != nullptr, "{}: cannot be written: {}", path, std::strerror(errno));
  const auto length = static_cast<std::int64_t>(std::filesystem::file_size(path));
  PV_CHECK(
      length >= bytes,
      "{}: {} bytes, but the saved state was written after {}; delete the folder to start again",
      path,
      length,
      bytes);
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(bytes));
}

void MetricsLog::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  PV_CHECK(std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() &&
               std::fflush(file_.get()) == 0,
           "{}: writing failed: {}",
           path_,
           std::strerror(errno));
}

std::int64_t MetricsLog::bytes() const { return static_cast<std::int64_t>(std::filesystem::file_size(path_)); }

}  // namespace pocketvlm
