#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {

const std::string& as_file(std::span<const std::byte> bytes) {
  struct Scratch {
    std::string path;
    Scratch() {
      const std::filesystem::path memory = "/dev/shm";
      const auto folder = std::filesystem::exists(memory) ? memory : std::filesystem::temp_directory_path();
      path = folder / fmt::format("pocketvlm-fuzz-{}", ::getpid());
    }
    ~Scratch() { std::filesystem::remove(path); }
  };
  static const Scratch scratch;
  // A fresh inode each time: a file that is still mapped must not shrink under its reader.
  std::filesystem::remove(scratch.path);
  std::ofstream out(scratch.path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  PV_CHECK(out.good(), "{}: cannot be written; is the disk full?", scratch.path);
  return scratch.path;
}

}  // namespace pocketvlm
