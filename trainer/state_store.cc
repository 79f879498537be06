#include "trainer/state_store.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/files.h"
#include "base/log.h"
#include "base/safetensors.h"
#include "trainer/state_files.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

using namespace state_files;

/// A run of a tensor's numbers in one of the mapped files.
struct SavedRun {
  int64_t begin;
  const TensorView* view;
  int64_t numbers() const { return static_cast<int64_t>(view->bytes.size() / sizeof(float)); }
};

/// All runs of a state, by tensor name, in the order of their places.
class SavedRuns {
 public:
  SavedRuns(const std::string& folder, const std::vector<Shard>& shards, const std::string& prefix) {
    for (const Shard& shard : shards) files_.emplace_back(folder + "/" + shard.file);
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

/// What is wrong with a state's files, empty when nothing is. Each rank looks at some of them.
std::string StateStore::damage(int64_t step) const {
  const std::string folder = step_folder(folder_, step);
  std::string found;
  try {
    const Manifest manifest = read_manifest(folder);
    for (std::size_t i = static_cast<std::size_t>(rank_); i < manifest.shards.size(); i += static_cast<std::size_t>(size_)) {
      const Shard& shard = manifest.shards[i];
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
  for (const int64_t step : complete_steps(folder_)) {
    const std::string wrong = damage(step);
    if (wrong.empty()) {
      if (!first_damage.empty() && rank_ == 0) {
        spdlog::warn("the state of a later step is damaged ({}); falling back to that of step {}", first_damage, step);
      }
      return read_manifest(step_folder(folder_, step)).state;
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
  const std::string folder = step_folder(folder_, step);
  const SavedRuns saved(folder, read_manifest(folder).shards, prefix);
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
  const std::string folder = step_folder(folder_, step);
  const SavedRuns saved(folder, read_manifest(folder).shards, kWeights);
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

void StateStore::restore_averages(int64_t step, const std::vector<TensorSlice>& averages) const {
  restore(step, kAverages, averages);
}

NamedTensors StateStore::whole_tensors(int64_t step, const std::string& prefix) const {
  const std::string folder = step_folder(folder_, step);
  const SavedRuns saved(folder, read_manifest(folder).shards, prefix);
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
  const std::string path = step_folder(folder_, step) + "/" + shard_name(rank_, size_);
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
