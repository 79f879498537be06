#pragma once

#include <fstream>
#include <string>
#include <string_view>

namespace pocketvlm {

/// A file that is complete under its name or absent. Not synced: for data that can be made again.
class OutputFile {
 public:
  /// Throws Error when the file cannot be created.
  explicit OutputFile(std::string path);
  void write(std::string_view bytes) { stream_.write(bytes.data(), static_cast<std::streamsize>(bytes.size())); }
  /// Throws Error when not all bytes could be written.
  void finish();

 private:
  std::string path_;
  std::ofstream stream_;
};

/// A ustar member with fixed owner, mode and time, so that equal samples give equal bytes. Names of up to 100 bytes.
std::string tar_member(const std::string& name, const std::string& bytes);

/// The blocks that end an archive.
std::string end_of_tar();

}  // namespace pocketvlm
