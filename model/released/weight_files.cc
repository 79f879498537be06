#include "model/released/weight_files.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/progress.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// The files of a folder's weights in one form.
struct WeightNames {
  const char* file;
  const char* index;
};
constexpr WeightNames kSafetensors = {"model.safetensors", "model.safetensors.index.json"};
constexpr WeightNames kPickled = {"pytorch_model.bin", "pytorch_model.bin.index.json"};

std::int64_t byte_count(const TensorToWrite& tensor) {
  auto bytes = static_cast<std::int64_t>(dtype_bytes(tensor.dtype));
  for (const std::int64_t size : tensor.shape) bytes *= size;
  return bytes;
}

/// The same tensors, reporting progress when their turn comes.
std::vector<TensorToWrite> reporting(const std::vector<TensorToWrite>& tensors, Progress& progress, std::int64_t& done_bytes) {
  std::vector<TensorToWrite> result;
  for (const TensorToWrite& tensor : tensors) {
    result.push_back({tensor.name, tensor.dtype, tensor.shape, [&tensor, &progress, &done_bytes] {
                        progress.update(done_bytes >> 20, tensor.name);
                        const auto bytes = tensor.bytes();
                        done_bytes += static_cast<std::int64_t>(bytes.size());
                        return bytes;
                      }});
  }
  return result;
}

template <typename Word>
std::int64_t first_nonfinite(std::span<const std::byte> bytes, Word exponent_mask) {
  const std::size_t count = bytes.size() / sizeof(Word);
  constexpr std::size_t kStretch = 4096;  // a stretch is scanned without branches, then searched only if it is bad
  std::vector<Word> words(kStretch);
  for (std::size_t begin = 0; begin < count; begin += kStretch) {
    const std::size_t n = std::min(kStretch, count - begin);
    std::memcpy(words.data(), bytes.data() + begin * sizeof(Word), n * sizeof(Word));
    bool bad = false;
    for (std::size_t i = 0; i < n; ++i) bad |= (words[i] & exponent_mask) == exponent_mask;
    if (!bad) continue;
    for (std::size_t i = 0; i < n; ++i) {
      if ((words[i] & exponent_mask) == exponent_mask) return static_cast<std::int64_t>(begin + i);
    }
  }
  return -1;
}

/// Shards as [first, last) ranges of the tensors.
std::vector<std::pair<std::size_t, std::size_t>> cut_shards(const std::vector<TensorToWrite>& tensors, std::int64_t limit) {
  std::vector<std::pair<std::size_t, std::size_t>> shards = {{0, 0}};
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::int64_t more = byte_count(tensors[i]);
    if (i > shards.back().first && bytes + more > limit) {
      shards.push_back({i, i});
      bytes = 0;
    }
    bytes += more;
    shards.back().second = i + 1;
  }
  return shards;
}

bool is_empty_folder(const fs::path& path) { return fs::is_directory(path) && fs::is_empty(path); }

}  // namespace

void write_weights(const std::string& folder, const std::vector<TensorToWrite>& tensors, std::int64_t max_shard_bytes) {
  std::int64_t total = 0;
  for (const TensorToWrite& tensor : tensors) total += byte_count(tensor);
  Progress progress("MiB", (total >> 20) + 1);
  std::int64_t done_bytes = 0;
  const auto shards = cut_shards(tensors, max_shard_bytes);
  Json map = Json::object();
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const std::vector<TensorToWrite> part(tensors.begin() + static_cast<std::ptrdiff_t>(shards[s].first),
                                          tensors.begin() + static_cast<std::ptrdiff_t>(shards[s].second));
    const std::string name =
        shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    write_safetensors((fs::path(folder) / name).string(), reporting(part, progress, done_bytes), {{"format", "pt"}});
    for (const TensorToWrite& tensor : part) map[tensor.name] = name;
  }
  if (shards.size() == 1) return;
  write_json((fs::path(folder) / kSafetensors.index).string(), {{"metadata", {{"total_size", total}}}, {"weight_map", map}});
}

void check_finite(const TensorView& tensor, const std::string& where) {
  std::int64_t place = -1;
  if (tensor.dtype == "F32") place = first_nonfinite<std::uint32_t>(tensor.bytes, 0x7f800000U);
  if (tensor.dtype == "F16") place = first_nonfinite<std::uint16_t>(tensor.bytes, 0x7c00U);
  if (tensor.dtype == "BF16") place = first_nonfinite<std::uint16_t>(tensor.bytes, 0x7f80U);
  if (tensor.dtype == "F64") place = first_nonfinite<std::uint64_t>(tensor.bytes, 0x7ff0000000000000ULL);
  PV_CHECK(place < 0,
           "{}: element {} is NaN or infinite; take an undamaged copy, or give --allow-nonfinite to keep it",
           where,
           place);
}

void PageWindow::move_to(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(last_.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(last_.data()) + last_.size();
  // Pages of a mapped file come back by themselves when a neighbour on the same page is read.
  if (!last_.empty()) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  last_ = bytes;
}

bool holds_pickled_weights(const std::string& folder) {
  const fs::path root(folder);
  if (fs::exists(root / kSafetensors.file) || fs::exists(root / kSafetensors.index)) return false;
  return fs::exists(root / kPickled.file) || fs::exists(root / kPickled.index);
}

WeightFolder::WeightFolder(const std::string& folder) {
  if (holds_pickled_weights(folder)) {
    read_pickled(folder);
  } else {
    safetensors_.emplace(folder);
    tensors_ = safetensors_->tensors();
  }
}

void WeightFolder::read_pickled(const std::string& folder) {
  const fs::path root(folder), index_path = root / kPickled.index;
  std::set<std::string> files = {kPickled.file};
  std::map<std::string, std::string> places;  // what the index says
  if (fs::exists(index_path)) {
    const Json index = read_json(index_path.string());
    PV_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), "{}: no \"weight_map\" object", index_path.string());
    files.clear();
    for (auto item = index["weight_map"].begin(); item != index["weight_map"].end(); ++item) {
      PV_CHECK(item->is_string(), "{}: weight_map.{} is no file name", index_path.string(), item.key());
      const auto file = item->get<std::string>();
      PV_CHECK(!file.empty() && file.find('/') == std::string::npos && file != "." && file != "..",
               "{}: weight_map.{} = \"{}\" points outside the folder",
               index_path.string(),
               item.key(),
               file);
      PV_CHECK(fs::exists(root / file),
               "{}: weight_map.{} names the shard {}, which is not in the folder; download it again",
               index_path.string(),
               item.key(),
               file);
      files.insert(file);
      places[item.key()] = file;
    }
  }
  for (const std::string& file : files) {
    pickled_.emplace_back((root / file).string());
    for (const auto& [name, tensor] : pickled_.back().tensors()) {
      PV_CHECK(tensors_.emplace(name, tensor).second, "{}: tensor {} is in another shard, too", (root / file).string(), name);
    }
  }
  for (const auto& [name, file] : places) {
    PV_CHECK(tensors_.count(name) != 0, "{}: weight_map.{} says {}, which has no such tensor; download both again", index_path.string(), name, file);
  }
}

ShardMap::ShardMap(const std::string& folder) : folder_(folder), file_(holds_pickled_weights(folder) ? kPickled.file : kSafetensors.file) {
  const fs::path root(folder);
  const WeightNames& names = holds_pickled_weights(folder) ? kPickled : kSafetensors;
  const std::string index_path = (root / names.index).string();
  if (!fs::exists(index_path)) {
    PV_CHECK(fs::exists(root / names.file),
             "{}: holds none of {}, {}, {} and {}; download the weights in one of these forms",
             folder,
             kSafetensors.file,
             kSafetensors.index,
             kPickled.file,
             kPickled.index);
    return;
  }
  const Json index = read_json(index_path);
  // Everything else about the index is checked where it is read for its tensors.
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) return;
  for (auto item = index["weight_map"].begin(); item != index["weight_map"].end(); ++item) {
    if (!item->is_string()) return;
    const auto file = item->get<std::string>();
    if (file.find('/') != std::string::npos || file == "..") return;
    PV_CHECK(fs::exists(root / file),
             "{}: weight_map.{} names the shard {}, which is not in the folder; download it again",
             index_path,
             item.key(),
             file);
    files_[item.key()] = (root / file).string();
  }
}

std::string ShardMap::place(const std::string& tensor) const {
  const auto found = files_.find(tensor);
  const std::string file = found == files_.end() ? (fs::path(folder_) / file_).string() : found->second;
  return fmt::format("{}: tensor {}", file, tensor);
}

NewFolder::NewFolder(const std::string& path, const std::string& marker) {
  PV_CHECK(!path.empty(), "--out: the name of a folder is needed");
  const fs::path plain = fs::absolute(path).lexically_normal();
  target_ = (plain.has_filename() ? plain : plain.parent_path()).string();
  const bool ours = !marker.empty() && fs::exists(fs::path(target_) / marker);
  PV_CHECK(!fs::exists(target_) || is_empty_folder(target_) || ours,
           "{}: exists and holds other things; give --out another folder, or remove this one",
           target_);
  temporary_ = target_ + ".tmp" + std::to_string(::getpid());
  fs::remove_all(temporary_);
  make_folders(temporary_);
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void NewFolder::commit() {
  std::error_code error;
  fs::remove_all(target_, error);
  if (!error) fs::rename(temporary_, target_, error);
  PV_CHECK(!error, "{}: cannot be put in place: {}", target_, error.message());
}

}  // namespace pocketvlm
