#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pocketvlm {

/// A regular file inside an archive. Names are only compared, never used as paths on disk.
struct TarMember {
  std::string name;
  std::uint64_t offset = 0;  // of its bytes
  std::uint64_t bytes = 0;
};

struct TarIndex {
  std::vector<TarMember> members;
  bool has_end_mark = true;  // without one the archive may be cut off
};

/// Lists the regular files of an archive: ustar, pax (path, size) and GNU long names; links,
/// folders and devices are passed over. Throws Error with `where` and the byte offset when a
/// header's checksum, a number or a size is wrong, when the archive is cut off, or when it is
/// compressed or sparse.
TarIndex read_tar_index(std::span<const std::byte> bytes, const std::string& where);

}  // namespace pocketvlm
