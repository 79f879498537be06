#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pocketvlm {

/// Whole file as bytes. Throws Error naming the file and the system's reason.
std::string read_file(const std::string& path);

/// Replaces `path` in one step: readers see the old bytes or the new ones, never a mixture, also
/// after a crash (written beside it, synced, renamed).
void write_file_atomic(const std::string& path, std::string_view bytes);

/// Creates the folder and its parents. Throws Error when that is impossible.
void make_folders(const std::string& path);

/// A read-only view of a whole file, mapped into memory. Movable, not copyable.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  /// Tells the system that these pages will not be read again, so resident memory falls.
  void release(std::size_t offset, std::size_t bytes) const;

 private:
  void unmap();

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

/// Peak resident memory of this process so far, in MiB.
double peak_rss_mib();

}  // namespace pocketvlm
