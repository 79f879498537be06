#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace pocketvlm {

/// Writes curves in TensorBoard's own format (TFRecord frames around Event messages), so that `tensorboard --logdir runs` shows
/// them. The file is made anew whenever it is opened: what it held is known from metrics.jsonl.
class EventFile {
 public:
  /// Throws Error when the file cannot be written.
  explicit EventFile(const std::string& path);

  /// Scalars of one step. `wall_time`: seconds since 1970.
  void append(int64_t step, double wall_time, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void write_record(const std::string& event);
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// CRC-32C (Castagnoli) of some bytes.
uint32_t crc32c(const void* bytes, std::size_t size);

}  // namespace pocketvlm
