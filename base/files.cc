#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace pocketvlm {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

void sync_folder(const std::filesystem::path& folder) {
  const Descriptor fd(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY));
  if (fd.get() >= 0) ::fsync(fd.get());
}

}  // namespace

std::string read_file(const std::string& path) {
  std::error_code ignored;
  PV_CHECK(!std::filesystem::is_directory(path, ignored), "{}: is a folder, not a file", path);
  std::ifstream in(path, std::ios::binary);
  PV_CHECK(in.good(), "{}: cannot be read: {}", path, std::strerror(errno));
  std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  PV_CHECK(!in.bad(), "{}: reading failed: {}", path, std::strerror(errno));
  return bytes;
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  const std::filesystem::path target(path);
  if (target.has_parent_path()) make_folders(target.parent_path().string());
  const std::string temporary = path + ".tmp" + std::to_string(::getpid());
  {
    const Descriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    PV_CHECK(fd.get() >= 0, "{}: cannot be written: {}", temporary, std::strerror(errno));
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        const std::string reason = std::strerror(errno);
        ::unlink(temporary.c_str());
        fail("{}: writing failed: {}", path, reason);
      }
      done += static_cast<std::size_t>(n);
    }
    ::fsync(fd.get());
  }
  PV_CHECK(::rename(temporary.c_str(), path.c_str()) == 0,
           "{}: cannot be replaced: {}",
           path,
           std::strerror(errno));
  sync_folder(target.parent_path());
}

void make_folders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  PV_CHECK(!error, "{}: the folder cannot be created: {}", path, error.message());
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  PV_CHECK(fd.get() >= 0, "{}: cannot be opened: {}", path, std::strerror(errno));
  struct stat info {};
  PV_CHECK(::fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode), "{}: is not a regular file", path);
  size_ = static_cast<std::size_t>(info.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  PV_CHECK(address != MAP_FAILED, "{}: cannot be mapped: {}", path, std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    path_ = std::move(other.path_);
  }
  return *this;
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
}

void MappedFile::release(std::size_t offset, std::size_t bytes) const {
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = (offset + page - 1) / page * page;
  const std::size_t end = std::min(offset + bytes, size_) / page * page;
  if (data_ != nullptr && begin < end) {
    ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
  }
}

double peak_rss_mib() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

}  // namespace pocketvlm
