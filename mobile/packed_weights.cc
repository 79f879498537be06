#include "mobile/packed_weights.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/random.h"
#include "mobile/packed_formats.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kLayout = 1;        // raise it when packed_formats.h changes
constexpr std::size_t kHeaderBytes = 4096;  // panels start on a page
constexpr std::size_t kLine = 64;

struct Header {
  char magic[8];
  std::uint64_t key;
  std::uint64_t bytes;  // of the panels
};

constexpr char kMagic[8] = {'P', 'V', 'P', 'A', 'N', 'E', 'L', 'S'};

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t hash) {
  const auto add = [&hash](std::uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
  };
  std::size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    add(word);
  }
  for (; at < bytes.size(); ++at) add(static_cast<std::uint64_t>(bytes[at]));
  return hash;
}

constexpr std::size_t kSampleBytes = 64;
constexpr std::size_t kSamples = 4;  // of each tensor: its first bytes, its last ones, two between

// Changes when the model does: its size, all metadata, and samples of each tensor. Not its time, so
// that a pair of files keeps together when it is copied. The samples are read past the mapping,
// whose reading ahead would fetch a hundred kilobytes around each.
std::uint64_t key_of(const GgufFile& file,
                     std::span<const GgufTensor* const> matrices,
                     PackedWeights::Form form) {
  std::uint64_t key = mix_keys({kLayout, static_cast<std::uint64_t>(form), file.size()});
  const std::byte* const begin = file.file().data();
  std::size_t metadata = file.size();
  for (const GgufTensor& tensor : file.tensors())
    metadata = std::min(metadata, static_cast<std::size_t>(tensor.bytes.data() - begin));
  key = hash_bytes({begin, metadata}, key);
  const int fd = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
  PV_CHECK(fd >= 0, "{}: {}", file.path(), std::strerror(errno));
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  for (const GgufTensor* matrix : matrices) {
    key = hash_bytes(std::as_bytes(std::span(matrix->name)), key);
    const std::size_t bytes = std::min(kSampleBytes, matrix->bytes.size());
    for (std::size_t i = 0; i < kSamples; ++i) {
      std::byte sample[kSampleBytes] = {};
      const std::size_t place = (matrix->bytes.size() - bytes) * i / (kSamples - 1);
      const auto offset = static_cast<off_t>(matrix->bytes.data() - begin) + static_cast<off_t>(place);
      const ssize_t read = ::pread(fd, sample, bytes, offset);
      key = hash_bytes({sample, bytes}, mix_keys({key, static_cast<std::uint64_t>(read)}));
    }
  }
  ::close(fd);
  return key;
}

std::int64_t bytes_of_panel(const GgufTensor& matrix, PackedWeights::Form form) {
  return form == PackedWeights::Form::kInt8 ? int8_panel_bytes(matrix.row_length())
                                            : panel_bytes(matrix.type, matrix.row_length());
}

void pack_matrix(const GgufFile& file,
                 const GgufTensor& matrix,
                 PackedWeights::Form form,
                 std::byte* target,
                 ThreadPool& pool) {
  const std::int64_t columns = matrix.row_length();
  const std::int64_t source_bytes = row_bytes(matrix.type, columns);
  const std::int64_t target_bytes = bytes_of_panel(matrix, form);
  const auto pack = form == PackedWeights::Form::kInt8 ? pack_int8_panel : pack_panel;
  const std::int64_t rows = matrix.num_rows();
  pool.for_pieces(
      (rows + kPanelRows - 1) / kPanelRows, 4, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) {
          pack(matrix.type,
               matrix.bytes.data() + p * kPanelRows * source_bytes,
               source_bytes,
               std::min<std::int64_t>(kPanelRows, rows - p * kPanelRows),
               columns,
               target + p * target_bytes);
        }
      });
  file.file().release(static_cast<std::size_t>(matrix.bytes.data() - file.file().data()),
                      matrix.bytes.size());
}

bool write_all(int fd, const void* data, std::size_t bytes, std::size_t offset) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, at, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    offset += static_cast<std::size_t>(n);
    bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

PackedWeights::PackedWeights(const GgufFile& file,
                             std::span<const GgufTensor* const> matrices,
                             Form form,
                             Keep keep,
                             ThreadPool& pool,
                             const std::string& folder)
    : form_(form) {
  for (const GgufTensor* matrix : matrices) {
    const std::int64_t panels = (matrix->num_rows() + kPanelRows - 1) / kPanelRows;
    const auto size = static_cast<std::size_t>(panels * bytes_of_panel(*matrix, form));
    pieces_.push_back({matrix, bytes_, size});
    bytes_ += (size + kLine - 1) / kLine * kLine;
  }
  if (pieces_.empty()) return;
  if (keep == Keep::kFile) {
    const std::uint64_t key = key_of(file, matrices, form);
    file.file().release(0, file.size());  // the system maps more around each byte that was read
    const std::string path = path_of(file.path(), folder);
    if (map(path, key)) return;
    if (write(file, path, key, pool) && map(path, key)) return;
  }
  pack_into_memory(file, pool);
}

std::string PackedWeights::path_of(const std::string& model_path, const std::string& folder) {
  const std::string path = model_path + ".packed";
  if (folder.empty()) return path;
  return (std::filesystem::path(folder) / std::filesystem::path(path).filename()).string();
}

bool PackedWeights::map(const std::string& path, std::uint64_t key) {
  if (::access(path.c_str(), R_OK) != 0) return false;
  try {
    mapped_ = MappedFile(path);
  } catch (const Error&) {
    return false;
  }
  Header header{};
  if (mapped_.size() == kHeaderBytes + bytes_) std::memcpy(&header, mapped_.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.key != key ||
      header.bytes != bytes_) {
    mapped_ = MappedFile();  // of another model, another version or unfinished
    return false;
  }
  point_to(mapped_.data() + kHeaderBytes);
  return true;
}

// Written under another name, synced and renamed, so that no run meets an unfinished file.
bool PackedWeights::write(const GgufFile& file,
                          const std::string& path,
                          std::uint64_t key,
                          ThreadPool& pool) {
  static std::atomic<int> number{0};
  const std::string temporary =
      path + ".tmp" + std::to_string(::getpid()) + "." + std::to_string(number++);
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  // Asks for the space first: a full disk is known at once.
  bool good = ::posix_fallocate(fd, 0, static_cast<off_t>(kHeaderBytes + bytes_)) == 0;
  std::vector<Line> panels;
  for (const Piece& piece : pieces_) {
    if (!good) break;
    panels.resize(std::max(panels.size(), (piece.bytes + kLine - 1) / kLine));
    pack_matrix(file, *piece.matrix, form_, panels.data()->bytes, pool);
    good = write_all(fd, panels.data(), piece.bytes, kHeaderBytes + piece.offset);
  }
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.key = key;
  header.bytes = bytes_;
  good = good && write_all(fd, &header, sizeof(header), 0) && ::fdatasync(fd) == 0;
  ::close(fd);
  good = good && std::rename(temporary.c_str(), path.c_str()) == 0;
  if (!good) ::unlink(temporary.c_str());
  return good;
}

void PackedWeights::pack_into_memory(const GgufFile& file, ThreadPool& pool) {
  memory_.resize(bytes_ / kLine);
  std::byte* start = memory_.data()->bytes;
  for (const Piece& piece : pieces_)
    pack_matrix(file, *piece.matrix, form_, start + piece.offset, pool);
  point_to(start);
}

void PackedWeights::point_to(const std::byte* data) {
  for (const Piece& piece : pieces_) panels_[piece.matrix->name] = data + piece.offset;
}

}  // namespace pocketvlm
