#include "trainer/state_store.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/files.h"
#include "base/log.h"
#include "base/safetensors.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeights = "weights/";
constexpr const char* kMoments = "moments/";
constexpr const char* kRandomState = "random_state";
constexpr const char* kComplete = "complete.json";
constexpr std::size_t kKept = 2;  // states: the newest, and one to fall back to

/// One file of a state, as complete.json lists it.
struct ShardEntry {
  std::string file;
  int64_t bytes = 0;
  std::string hash;
  void visit_fields(auto&& field) {
    field("file", file, "name", required());
    field("bytes", bytes, "size", required());
    field("hash", hash, "of its bytes", required());
  }
};

struct Manifest {
  TrainingState state;
  std::vector<ShardEntry> shards;
  void visit_fields(auto&& field) {
    field("state", state, "everything beside tensors", required());
    field("shards", shards, "files of all ranks", required());
  }
};

std::string shard_name(int rank, int size) { return fmt::format("rank-{:05}-of-{:05}.safetensors", rank, size); }

/// Four lanes of multiply and shift: fast enough that checking a state costs less than reading it.
std::string hash_of(const MappedFile& file) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15ULL;
  uint64_t lanes[4] = {1, 2, 3, 4};
  const auto mix = [](uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * kFactor;
    return hash ^ (hash >> 29);
  };
  std::size_t at = 0;
  for (; at + 32 <= file.size(); at += 32) {
    uint64_t words[4];
    std::memcpy(words, file.data() + at, 32);
    for (int lane = 0; lane < 4; ++lane) lanes[lane] = mix(lanes[lane], words[lane]);
  }
  uint64_t hash = file.size();
  for (; at < file.size(); ++at) hash = mix(hash, static_cast<uint64_t>(file.data()[at]));
  for (const uint64_t lane : lanes) hash = mix(hash, lane);
  return fmt::format("{:016x}", hash);
}

void sync_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const std::string reason = std::strerror(errno);
  if (fd >= 0) ::close(fd);
  PV_CHECK(synced, "{}: writing failed: {}", path, reason);
}

torch::Tensor random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

TensorToWrite to_write(const std::string& name, const torch::Tensor& tensor) {
  const bool is_float = tensor.scalar_type() == torch::kFloat32;
  TORCH_INTERNAL_ASSERT(is_float || tensor.scalar_type() == torch::kUInt8);
  const torch::Tensor detached = tensor.detach();
  torch::Tensor bytes;  // made when its turn comes, kept until the next
  return {name, is_float ? "F32" : "U8", tensor.sizes().vec(), [detached, bytes]() mutable {
            bytes = detached.cpu().contiguous();
            return std::span(static_cast<const std::byte*>(bytes.const_data_ptr()), bytes.nbytes());
          }};
}

/// "weights/<name>@<begin>": whole tensors keep their shape in the file, runs are rows.
std::string key_of(const char* prefix, const TensorSlice& slice) {
  return fmt::format("{}{}@{}", prefix, slice.name, slice.begin);
}

/// A run of a tensor's numbers in one of the mapped files.
struct SavedRun {
  int64_t begin;
  const TensorView* view;
  int64_t numbers() const { return static_cast<int64_t>(view->bytes.size() / sizeof(float)); }
};

/// All runs of a state, by tensor name, in the order of their places.
class SavedRuns {
 public:
  SavedRuns(const std::string& folder, const std::vector<ShardEntry>& shards, const std::string& prefix) {
    for (const ShardEntry& shard : shards) files_.emplace_back(folder + "/" + shard.file);
    for (const SafetensorsFile& file : files_) {
      for (const auto& [key, view] : file.tensors()) {
        const std::size_t at = key.rfind('@');
        if (key.rfind(prefix, 0) != 0 || at == std::string::npos) continue;
        PV_CHECK(view.dtype == "F32", "{}: {}: dtype {} is not expected here", file.path(), key, view.dtype);
        runs_[key.substr(prefix.size(), at - prefix.size())].push_back({std::stoll(key.substr(at + 1)), &view});
      }
    }
    for (auto& [name, runs] : runs_) {
      std::sort(runs.begin(), runs.end(), [](const SavedRun& a, const SavedRun& b) { return a.begin < b.begin; });
    }
  }
  const std::map<std::string, std::vector<SavedRun>>& all() const { return runs_; }

  /// Copies numbers [begin, begin + count) of a tensor; false when one is missing.
  bool copy(const std::string& name, int64_t begin, int64_t count, float* to) const {
    const auto found = runs_.find(name);
    if (found == runs_.end()) return count == 0;
    int64_t at = begin;
    for (const SavedRun& run : found->second) {
      const int64_t last = std::min(begin + count, run.begin + run.numbers());
      if (run.begin > at || last <= at) continue;
      std::memcpy(to + (at - begin),
                  run.view->bytes.data() + static_cast<std::size_t>(at - run.begin) * sizeof(float),
                  static_cast<std::size_t>(last - at) * sizeof(float));
      at = last;
    }
    return at == begin + count;
  }

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::vector<SavedRun>> runs_;
};

int64_t numbers_of(const std::vector<int64_t>& shape) {
  int64_t numbers = 1;
  for (const int64_t size : shape) numbers *= size;
  return numbers;
}

}  // namespace

StateStore::StateStore(std::string folder, Communicator* ranks)
    : folder_(std::move(folder)),
      ranks_(ranks),
      rank_(ranks == nullptr ? 0 : ranks->rank()),
      size_(ranks == nullptr ? 1 : ranks->size()) {}

std::string StateStore::step_folder(int64_t step) const { return fmt::format("{}/step-{:09}", folder_, step); }

std::vector<int64_t> StateStore::complete_steps() const {
  std::vector<int64_t> steps;
  if (!fs::is_directory(folder_)) return steps;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && fs::exists(entry.path() / kComplete)) steps.push_back(std::stoll(name.substr(5)));
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void StateStore::save(const TrainingState& state,
                      const std::vector<TensorSlice>& weights,
                      const std::vector<TensorSlice>& moments) const {
  const std::string folder = step_folder(state.total.steps);
  if (rank_ == 0) {
    std::error_code unusable;  // make_folders says what is wrong with the place
    fs::remove_all(folder, unusable);  // left by a process that was stopped while it wrote
    make_folders(folder);
  }
  if (ranks_ != nullptr) ranks_->barrier();
  std::vector<TensorToWrite> tensors;
  for (const TensorSlice& slice : weights) tensors.push_back(to_write(key_of(kWeights, slice), slice.values));
  for (const TensorSlice& slice : moments) tensors.push_back(to_write(key_of(kMoments, slice), slice.values));
  tensors.push_back(to_write(kRandomState, random_state()));
  ShardEntry entry;
  entry.file = shard_name(rank_, size_);
  const std::string path = folder + "/" + entry.file;
  write_safetensors(path, tensors);
  sync_file(path);
  const MappedFile written(path);
  entry.bytes = static_cast<int64_t>(written.size());
  entry.hash = hash_of(written);
  const std::string text = config_to_json(entry).dump();
  const std::vector<std::string> entries = ranks_ == nullptr ? std::vector{text} : ranks_->gather_texts(text);
  if (rank_ == 0) {
    Manifest manifest;
    manifest.state = state;
    for (const std::string& line : entries) {
      manifest.shards.push_back(read_config<ShardEntry>(parse_json(line, path), path));
    }
    // A file name among the skipped samples need not be UTF-8.
    write_file_atomic(folder + "/" + kComplete,
                      config_to_json(manifest).dump(-1, ' ', false, Json::error_handler_t::replace));
    const std::vector<int64_t> steps = complete_steps();
    for (std::size_t i = kKept; i < steps.size(); ++i) fs::remove_all(step_folder(steps[i]));
  }
  if (ranks_ != nullptr) ranks_->barrier();
}

/// What is wrong with a state's files, empty when nothing is. Each rank looks at some of them.
std::string StateStore::damage(int64_t step) const {
  const std::string folder = step_folder(step);
  std::string found;
  try {
    const std::string path = folder + "/" + kComplete;
    const auto manifest = read_config<Manifest>(read_json(path), path);
    for (std::size_t i = static_cast<std::size_t>(rank_); i < manifest.shards.size(); i += static_cast<std::size_t>(size_)) {
      const ShardEntry& shard = manifest.shards[i];
      const MappedFile file(folder + "/" + shard.file);
      PV_CHECK(static_cast<int64_t>(file.size()) == shard.bytes && hash_of(file) == shard.hash,
               "{}: its bytes are not those that were written",
               file.path());
    }
  } catch (const Error& error) {
    found = error.what();
  }
  if (ranks_ == nullptr) return found;
  for (const std::string& text : ranks_->gather_texts(found)) {
    if (!text.empty()) return text;
  }
  return {};
}

std::optional<TrainingState> StateStore::find() const {
  std::string first_damage;
  for (const int64_t step : complete_steps()) {
    const std::string wrong = damage(step);
    if (wrong.empty()) {
      if (!first_damage.empty() && rank_ == 0) {
        spdlog::warn("the state of a later step is damaged ({}); falling back to that of step {}", first_damage, step);
      }
      const std::string path = step_folder(step) + "/" + kComplete;
      return read_config<Manifest>(read_json(path), path).state;
    }
    if (first_damage.empty()) first_damage = wrong;
  }
  PV_CHECK(first_damage.empty(),
           "the saved state is damaged ({}) and there is no earlier one; delete {} to start again",
           first_damage,
           folder_);
  return std::nullopt;
}

void StateStore::restore(int64_t step, const std::string& prefix, const std::vector<TensorSlice>& slices) const {
  const torch::NoGradGuard no_grad;
  const std::string folder = step_folder(step);
  const std::string path = folder + "/" + kComplete;
  const SavedRuns saved(folder, read_config<Manifest>(read_json(path), path).shards, prefix);
  for (const TensorSlice& slice : slices) {
    torch::Tensor values = torch::empty({slice.values.numel()});
    PV_CHECK(saved.copy(slice.name, slice.begin, values.numel(), values.data_ptr<float>()),
             "{}: state of another model or optimizer: {}{} is missing or has another shape",
             folder,
             prefix,
             slice.name);
    torch::Tensor(slice.values).copy_(values.view(slice.values.sizes()));
  }
}

void StateStore::restore_weights(int64_t step, const std::vector<TensorSlice>& weights, const Tensors& tensors) const {
  const std::string folder = step_folder(step);
  const std::string path = folder + "/" + kComplete;
  const SavedRuns saved(folder, read_config<Manifest>(read_json(path), path).shards, kWeights);
  std::map<std::string, std::vector<int64_t>> wanted(tensors.begin(), tensors.end());
  for (const auto& [name, runs] : saved.all()) {
    int64_t numbers = 0;
    for (const SavedRun& run : runs) numbers += run.numbers();
    const auto found = wanted.find(name);
    PV_CHECK(found != wanted.end() && numbers_of(found->second) == numbers,
             "{}: state of another model: {} is unexpected or has another shape",
             folder,
             name);
  }
  restore(step, kWeights, weights);
}

void StateStore::restore_moments(int64_t step, const std::vector<TensorSlice>& moments) const {
  restore(step, kMoments, moments);
}

NamedTensors StateStore::whole_tensors(int64_t step, const std::string& prefix) const {
  const std::string folder = step_folder(step);
  const std::string path = folder + "/" + kComplete;
  const SavedRuns saved(folder, read_config<Manifest>(read_json(path), path).shards, prefix);
  NamedTensors result;
  for (const auto& [name, runs] : saved.all()) {
    PV_CHECK(runs.size() == 1, "{}: {} was written by several ranks; continue with as many", folder, name);
    torch::Tensor tensor = torch::empty(runs.front().view->shape);
    std::memcpy(tensor.mutable_data_ptr(), runs.front().view->bytes.data(), runs.front().view->bytes.size());
    result.emplace_back(name, tensor);
  }
  return result;
}

NamedTensors StateStore::whole_weights(int64_t step) const { return whole_tensors(step, kWeights); }
NamedTensors StateStore::whole_moments(int64_t step) const { return whole_tensors(step, kMoments); }

bool StateStore::restore_random_state(int64_t step) const {
  const std::string path = step_folder(step) + "/" + shard_name(rank_, size_);
  if (!fs::exists(path)) return false;
  const SafetensorsFile file(path);
  const TensorView& view = file.at(kRandomState);
  torch::Tensor state = torch::empty({static_cast<int64_t>(view.bytes.size())}, torch::kUInt8);
  std::memcpy(state.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
  return true;
}

}  // namespace pocketvlm
