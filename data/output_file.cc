#include "data/output_file.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "base/error.h"

namespace pocketvlm {

OutputFile::OutputFile(std::string path) : path_(std::move(path)), stream_(path_ + ".part", std::ios::binary) {
  PV_CHECK(stream_.good(), "{}: cannot be written; check the folder's permissions", path_);
}

void OutputFile::finish() {
  stream_.close();
  PV_CHECK(!stream_.fail() && std::rename((path_ + ".part").c_str(), path_.c_str()) == 0,
           "{}: cannot be written; is the disk full?",
           path_);
}

std::string tar_member(const std::string& name, const std::string& bytes) {
  std::array<char, 512> header{};
  const auto put = [&](std::size_t offset, const std::string& text) {
    std::copy(text.begin(), text.end(), header.begin() + static_cast<std::ptrdiff_t>(offset));
  };
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, fmt::format("{:011o}", bytes.size()));
  put(136, "00000000000");
  put(148, "        ");
  put(156, "0");
  put(257, std::string("ustar\0" "00", 8));
  unsigned sum = 0;
  for (const char byte : header) sum += static_cast<unsigned char>(byte);
  put(148, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  std::string member(header.begin(), header.end());
  member += bytes;
  member.resize((member.size() + 511) / 512 * 512, '\0');
  return member;
}

std::string end_of_tar() { return std::string(1024, '\0'); }

}  // namespace pocketvlm
