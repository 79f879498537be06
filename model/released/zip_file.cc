#include "model/released/zip_file.h"

#include <algorithm>

#include "base/error.h"

/// APPNOTE.TXT of PKWARE, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14-16 (ends of the directory), 4.5.3 (zip64).
namespace pocketvlm {
namespace {

constexpr std::uint64_t kLocalHeader = 0x04034b50, kEntry = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                        kLocator64 = 0x07064b50;
constexpr std::uint64_t kEndBytes = 22, kLocatorBytes = 20, kEnd64Bytes = 56, kEntryBytes = 46, kLocalBytes = 30;
constexpr std::uint64_t kLongestComment = 65535;
constexpr std::uint64_t kIn64 = 0xFFFFFFFF;  // the number stands in the zip64 field

}  // namespace

ZipFile::ZipFile(const std::string& path) : file_(path) {
  PV_CHECK(file_.size() >= kEndBytes && number(0, 4) == kLocalHeader,
           "{}: is no zip archive, the form that torch.save has written since PyTorch 1.6; save the weights as safetensors",
           path);
  read_directory(find_directory());
}

std::uint64_t ZipFile::number(std::uint64_t offset, int bytes) const {
  const auto count = static_cast<std::uint64_t>(bytes);
  PV_CHECK(offset <= file_.size() && count <= file_.size() - offset,
           "{}: the zip directory points beyond the end of the file; fetch the file again",
           path());
  std::uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | std::to_integer<std::uint64_t>(file_.data()[offset + static_cast<std::uint64_t>(i)]);
  return value;
}

ZipFile::Directory ZipFile::find_directory() const {
  const std::uint64_t last = file_.size() - kEndBytes;
  const std::uint64_t first = last - std::min(last, kLongestComment);
  for (std::uint64_t at = last + 1; at-- > first;) {
    if (number(at, 4) != kEnd) continue;
    Directory directory{number(at + 16, 4), number(at + 12, 4), number(at + 10, 2)};
    if (at >= kLocatorBytes && number(at - kLocatorBytes, 4) == kLocator64) {
      const std::uint64_t end64 = number(at - kLocatorBytes + 8, 8);
      PV_CHECK(end64 <= file_.size() && kEnd64Bytes <= file_.size() - end64 && number(end64, 4) == kEnd64,
               "{}: the zip64 directory is not where the file says; fetch the file again",
               path());
      directory = {number(end64 + 48, 8), number(end64 + 40, 8), number(end64 + 32, 8)};
    }
    return directory;
  }
  fail("{}: the zip directory at the end of the file is missing; the file is cut off, fetch it again", path());
}

void ZipFile::read_directory(const Directory& directory) {
  PV_CHECK(directory.offset <= file_.size() && directory.bytes <= file_.size() - directory.offset &&
               directory.entries <= directory.bytes / kEntryBytes,
           "{}: the zip directory of {} entries does not fit into the file; fetch the file again",
           path(),
           directory.entries);
  std::uint64_t at = directory.offset;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    PV_CHECK(number(at, 4) == kEntry, "{}: entry {} of the zip directory is damaged; fetch the file again", path(), i);
    std::uint64_t size = number(at + 24, 4), packed = number(at + 20, 4), header = number(at + 42, 4);
    const std::uint64_t name_bytes = number(at + 28, 2), extra_bytes = number(at + 30, 2), comment_bytes = number(at + 32, 2);
    const std::uint64_t extra = at + kEntryBytes + name_bytes;
    number(extra + extra_bytes + comment_bytes, 0);  // inside the file
    const std::string name(reinterpret_cast<const char*>(file_.data()) + at + kEntryBytes, name_bytes);
    // The zip64 field holds, in this order, those of the numbers that did not fit.
    for (std::uint64_t field = extra; field + 4 <= extra + extra_bytes; field += 4 + number(field + 2, 2)) {
      if (number(field, 2) != 1) continue;
      std::uint64_t value = field + 4;
      for (std::uint64_t* wide : {&size, &packed, &header}) {
        if (*wide != kIn64) continue;
        *wide = number(value, 8);
        value += 8;
      }
    }
    const std::uint64_t method = number(at + 10, 2), flags = number(at + 8, 2);
    PV_CHECK(method == 0 && packed == size && (flags & 1) == 0,
             "{}: entry {} is compressed or encrypted; torch.save does neither, save the weights again",
             path(),
             name);
    if (!name.ends_with('/')) {
      PV_CHECK(entries_.emplace(name, entry_bytes(header, size, name)).second, "{}: two entries are called {}", path(), name);
    }
    at = extra + extra_bytes + comment_bytes;
  }
}

std::span<const std::byte> ZipFile::entry_bytes(std::uint64_t header, std::uint64_t size, const std::string& name) const {
  PV_CHECK(number(header, 4) == kLocalHeader, "{}: entry {} does not begin where the directory says; fetch the file again", path(), name);
  const std::uint64_t begin = header + kLocalBytes + number(header + 26, 2) + number(header + 28, 2);
  PV_CHECK(begin <= file_.size() && size <= file_.size() - begin,
           "{}: entry {} of {} bytes reaches beyond the end of the file; fetch the file again",
           path(),
           name,
           size);
  return {file_.data() + begin, size};
}

}  // namespace pocketvlm
