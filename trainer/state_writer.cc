#include "trainer/state_writer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>

#include "base/log.h"
#include "base/safetensors.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;
using state_files::Manifest;
using state_files::Shard;

constexpr std::size_t kKept = 2;  // states: the newest, and one to fall back to

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

/// Asks for pages of 2 MiB, where the system has them: touching new memory then costs far fewer faults.
void use_large_pages(const torch::Tensor& memory) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(memory.mutable_data_ptr());
  const std::uintptr_t begin = (address + page - 1) / page * page, end = (address + memory.nbytes()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

/// What a file is made of. Without copies a tensor is brought to the host when its turn comes and let go when the next one's has.
class ShardTensors {
 public:
  void add(const std::string& name, const torch::Tensor& tensor) {
    TORCH_INTERNAL_ASSERT(tensor.scalar_type() == torch::kFloat32 || tensor.scalar_type() == torch::kUInt8);
    tensors_.emplace_back(name, tensor.detach());
  }

  /// "weights/<name>@<begin>": whole tensors keep their shape in the file, runs are rows.
  void add(const char* prefix, const std::vector<TensorSlice>& slices) {
    for (const TensorSlice& slice : slices) add(fmt::format("{}{}@{}", prefix, slice.name, slice.begin), slice.values);
  }

  /// Replaces the tensors by copies in `memory`, which grows when it is too small.
  void copy_into(torch::Tensor& memory) {
    constexpr int64_t kAlignment = 64;
    const auto room = [](const torch::Tensor& tensor) {
      return (static_cast<int64_t>(tensor.nbytes()) + kAlignment - 1) / kAlignment * kAlignment;
    };
    int64_t bytes = 0;
    for (const auto& [name, tensor] : tensors_) bytes += room(tensor);
    if (!memory.defined() || memory.numel() < bytes) {
      memory.reset();  // first, so that never both are there
      memory = torch::empty({bytes}, torch::kUInt8);
      use_large_pages(memory);
    }
    int64_t begin = 0;
    for (auto& [name, tensor] : tensors_) {
      const torch::Tensor place = memory.narrow(0, begin, static_cast<int64_t>(tensor.nbytes()));
      begin += room(tensor);
      tensor = place.view(tensor.scalar_type()).view(tensor.sizes()).copy_(tensor);
    }
  }

  std::vector<TensorToWrite> to_write() const {
    std::vector<TensorToWrite> result;
    const auto current = std::make_shared<torch::Tensor>();
    for (const auto& [name, tensor] : tensors_) {
      const char* dtype = tensor.scalar_type() == torch::kFloat32 ? "F32" : "U8";
      result.push_back({name, dtype, tensor.sizes().vec(), [tensor = tensor, current] {
                          *current = tensor.cpu().contiguous();
                          return std::span(static_cast<const std::byte*>(current->const_data_ptr()), current->nbytes());
                        }});
    }
    return result;
  }

 private:
  std::vector<std::pair<std::string, torch::Tensor>> tensors_;
};

Shard write_shard(const std::string& folder, const std::string& name, const ShardTensors& tensors, const std::vector<std::string>& logs) {
  const std::string path = folder + "/" + name;
  write_safetensors(path, tensors.to_write());
  sync_file(path);
  for (const std::string& log : logs) sync_file(log);
  const MappedFile written(path);
  return {name, static_cast<int64_t>(written.size()), state_files::hash_of(written)};
}

/// Makes a state count, and removes those that are no longer kept.
void write_manifest(const std::string& folder, const Manifest& manifest) {
  // A file name among the skipped samples need not be UTF-8.
  write_file_atomic(state_files::step_folder(folder, manifest.state.total.steps) + "/" + state_files::kComplete,
                    config_to_json(manifest).dump(-1, ' ', false, Json::error_handler_t::replace));
  const std::vector<int64_t> steps = state_files::complete_steps(folder);
  for (std::size_t i = kKept; i < steps.size(); ++i) fs::remove_all(state_files::step_folder(folder, steps[i]));
}

/// What an action threw, empty when nothing.
std::string problem_of(const auto& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace

StateWriter::StateWriter(std::string folder, Communicator* ranks)
    : folder_(std::move(folder)),
      ranks_(ranks),
      rank_(ranks == nullptr ? 0 : ranks->rank()),
      size_(ranks == nullptr ? 1 : ranks->size()) {}

StateWriter::~StateWriter() {
  if (size_ > 1) return;  // the futures wait for their threads
  const std::string problem = problem_of([&] { finish(); });
  if (!problem.empty()) spdlog::error("the last state was not saved: {}", problem);
}

std::vector<std::string> StateWriter::gather(const std::string& text) const {
  return ranks_ == nullptr ? std::vector{text} : ranks_->gather_texts(text);
}

void StateWriter::throw_on_all(const std::string& problem) const {
  for (const std::string& text : gather(problem)) PV_CHECK(text.empty(), "{}", text);
}

void StateWriter::save(const TrainingState& state, const StateSlices& slices, const std::vector<std::string>& logs) {
  start(state, slices, logs, std::launch::deferred);
  finish();
}

void StateWriter::begin(const TrainingState& state, const StateSlices& slices, const std::vector<std::string>& logs) {
  start(state, slices, logs, std::launch::async);
}

void StateWriter::start(const TrainingState& state,
                        const StateSlices& slices,
                        const std::vector<std::string>& logs,
                        std::launch launch) {
  finish();
  const std::string folder = state_files::step_folder(folder_, state.total.steps);
  throw_on_all(problem_of([&] {
    if (rank_ != 0) return;
    std::error_code unusable;  // make_folders says what is wrong with the place
    fs::remove_all(folder, unusable);  // left by a process that was stopped while it wrote
    make_folders(folder);
  }));
  state_ = state;
  launch_ = launch;
  ShardTensors tensors;
  tensors.add(state_files::kWeights, slices.weights);
  tensors.add(state_files::kMoments, slices.moments);
  tensors.add(state_files::kAverages, slices.averages);
  tensors.add(state_files::kRandomState, random_state());
  if (launch == std::launch::async) {
    const torch::NoGradGuard no_grad;
    tensors.copy_into(memory_);
  } else {
    memory_.reset();
  }
  write_ = std::async(launch, [folder, logs, tensors = std::move(tensors), name = state_files::shard_name(rank_, size_)] {
    return write_shard(folder, name, tensors, logs);
  });
}

bool StateWriter::written() const {
  return !write_.valid() || write_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void StateWriter::complete() {
  if (!in_progress()) return;
  Shard own;
  const std::string problem = problem_of([&] { own = write_.get(); });
  throw_on_all(problem);
  Manifest manifest;
  manifest.state = state_;
  for (const std::string& text : gather(config_to_json(own).dump())) {
    manifest.shards.push_back(read_config<Shard>(parse_json(text, own.file), own.file));
  }
  completing_ = true;
  if (rank_ != 0) return;
  completion_ = std::async(launch_, [folder = folder_, manifest = std::move(manifest)] { write_manifest(folder, manifest); });
}

void StateWriter::finish() {
  complete();
  if (!completing_) return;
  completing_ = false;
  throw_on_all(problem_of([&] {
    if (completion_.valid()) completion_.get();
  }));
}

}  // namespace pocketvlm
