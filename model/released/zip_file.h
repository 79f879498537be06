#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "base/files.h"

namespace pocketvlm {

/// A zip archive whose entries are stored as they are (what torch.save writes), mapped: entries are stretches of the file. Zip64
/// for large files. Throws Error naming the file when the directory is damaged, an entry lies outside the file or is compressed.
class ZipFile {
 public:
  explicit ZipFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::size_t bytes() const { return file_.size(); }
  const std::map<std::string, std::span<const std::byte>>& entries() const { return entries_; }

 private:
  struct Directory {
    std::uint64_t offset, bytes, entries;
  };
  Directory find_directory() const;
  void read_directory(const Directory& directory);
  std::span<const std::byte> entry_bytes(std::uint64_t header, std::uint64_t size, const std::string& name) const;
  /// A little-endian number of `bytes` bytes at an offset that is inside the file.
  std::uint64_t number(std::uint64_t offset, int bytes) const;

  MappedFile file_;
  std::map<std::string, std::span<const std::byte>> entries_;
};

}  // namespace pocketvlm
