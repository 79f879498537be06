#include "data/data_index.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"

namespace pocketvlm {
namespace {

constexpr std::array<char, 8> kMagic = {'P', 'V', 'L', 'M', 'I', 'D', 'X', '1'};
constexpr std::size_t kSamples = 16, kSampleBytes = 4096;

/// Before the table; all numbers as they lie in memory (an index never leaves its machines).
struct Header {
  std::array<char, 8> magic = kMagic;
  std::array<char, 8> kind = {};
  std::uint64_t data_bytes = 0;
  std::int64_t data_time_ns = 0;
  std::uint64_t data_hash = 0;  // of the samples
  std::uint64_t table_bytes = 0;
  std::uint64_t table_hash = 0;
  std::uint64_t header_hash = 0;  // of what stands before it
};
static_assert(sizeof(Header) == 64);

/// Against accidents, not against intent. Four lanes, so that it is read as fast as memory gives it.
std::uint64_t hash_of(std::span<const std::byte> bytes) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  for (std::size_t at = 0; at < bytes.size(); at += 32) {
    std::uint64_t words[4] = {};
    std::memcpy(words, bytes.data() + at, std::min<std::size_t>(32, bytes.size() - at));
    for (int i = 0; i < 4; ++i) lanes[i] = std::rotl((lanes[i] ^ words[i]) * 0x9e3779b97f4a7c15ULL, 29);
  }
  return mix_keys({bytes.size(), lanes[0], lanes[1], lanes[2], lanes[3]});
}

std::uint64_t hash_of_header(const Header& header) {
  return hash_of(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, header_hash)));
}

/// What the index of these data must be bound to.
Header bound_to(const MappedFile& data, const std::string& kind) {
  Header header;
  kind.copy(header.kind.data(), header.kind.size());
  header.data_bytes = data.size();
  struct stat info {};
  if (::stat(data.path().c_str(), &info) == 0) {
    header.data_time_ns = std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  }
  const std::span<const std::byte> bytes(data.data(), data.size());
  const std::size_t last = data.size() - std::min(data.size(), kSampleBytes);
  for (std::size_t i = 0; i < kSamples; ++i) {
    const std::size_t at = last / (kSamples - 1) * i + (i + 1 == kSamples ? last % (kSamples - 1) : 0);
    header.data_hash = mix_keys({header.data_hash, hash_of(bytes.subspan(at, std::min(kSampleBytes, bytes.size() - at)))});
  }
  data.release(0, data.size());  // the system maps much more around what is read
  return header;
}

std::span<const std::byte> table_of(const MappedFile& file) { return {file.data() + sizeof(Header), file.size() - sizeof(Header)}; }

/// Why the file is not the index of these data; empty when it is.
std::string fault_of(const MappedFile& file, const Header& wanted) {
  if (file.size() < sizeof(Header)) return "its index is cut off";
  Header found;
  std::memcpy(&found, file.data(), sizeof(Header));
  if (found.magic != kMagic || found.kind != wanted.kind) return "its index is one of another version";
  if (found.header_hash != hash_of_header(found)) return "its index is damaged";
  if (found.data_bytes != wanted.data_bytes || found.data_time_ns != wanted.data_time_ns || found.data_hash != wanted.data_hash) {
    return "it has changed since its index was made";
  }
  if (found.table_bytes != file.size() - sizeof(Header)) return "its index is cut off";
  const bool whole = found.table_hash == hash_of(table_of(file));
  file.release(0, file.size());
  return whole ? "" : "its index is damaged";
}

/// The index at `path` if it fits; nothing, and why, otherwise ("" when there is none).
MappedFile find(const std::string& path, const Header& wanted, std::string& fault) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  try {
    MappedFile file(path);
    fault = fault_of(file, wanted);
    if (fault.empty()) return file;
  } catch (const Error& error) {
    fault = fmt::format("its index cannot be read ({})", error.what());
  }
  return {};
}

}  // namespace

std::string DataIndex::index_path(const std::string& data, const std::string& kind, const IndexOptions& options) {
  const std::filesystem::path path(data);
  const std::string name = path.filename().string();
  // With a dot before it no pattern of data files matches it.
  if (options.folder.empty()) return (path.parent_path() / fmt::format(".{}.{}.index", name, kind)).string();
  std::error_code ignored;
  const std::string whole = std::filesystem::absolute(path, ignored).lexically_normal().string();
  const std::uint64_t hash = hash_of(std::as_bytes(std::span(whole)));
  return (std::filesystem::path(options.folder) / fmt::format(".{}-{:016x}.{}.index", name, hash, kind)).string();
}

DataIndex::DataIndex(const MappedFile& data,
                     const std::string& kind,
                     const IndexOptions& options,
                     const std::function<std::string()>& make) {
  if (!options.kept || data.size() < static_cast<std::size_t>(std::max<std::int64_t>(1, options.min_bytes))) {
    made_ = make();
    return;
  }
  const std::string path = index_path(data.path(), kind, options);
  Header header = bound_to(data, kind);
  std::string fault;
  file_ = find(path, header, fault);
  was_found_ = file_.size() > 0;
  if (was_found_) return;
  made_ = make();
  if (!options.writes) return;
  header.table_bytes = made_.size();
  header.table_hash = hash_of(table());
  header.header_hash = hash_of_header(header);
  try {
    write_file_atomic(path, std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + made_);
    if (!fault.empty()) spdlog::warn("{}: {}; {} was made again", data.path(), fault, path);
    // Another process may have taken its place meanwhile.
    std::string ignored;
    file_ = find(path, header, ignored);
    if (file_.size() > 0) made_ = std::string();
  } catch (const Error& error) {
    spdlog::warn("{}: {}its index cannot be kept, so every start reads the file: {}; data.index_folder can name another folder",
                 data.path(),
                 fault.empty() ? "" : fault + ", and ",
                 error.what());
  }
}

std::span<const std::byte> DataIndex::table() const {
  if (file_.size() > 0) return table_of(file_);
  return std::as_bytes(std::span(made_));
}

}  // namespace pocketvlm
