#include "trainer/training_state.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cstring>
#include <filesystem>
#include <mutex>

#include "base/safetensors.h"

namespace pocketvlm {
namespace {

constexpr const char* kWeights = "weights/";
constexpr const char* kMoments = "moments/";
constexpr const char* kRandomState = "random_state";

std::string state_file(const std::string& folder) { return folder + "/training.safetensors"; }

torch::Tensor random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(const torch::Tensor& state) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
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

torch::Tensor to_tensor(const TensorView& view, const std::string& where) {
  PV_CHECK(view.dtype == "F32" || view.dtype == "U8",
           "{}: dtype {} is not expected here",
           where,
           view.dtype);
  torch::Tensor tensor =
      torch::empty(view.shape, view.dtype == "F32" ? torch::kFloat32 : torch::kUInt8);
  std::memcpy(tensor.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  return tensor;
}

}  // namespace

void StepTotals::add(const StepTotals& other) {
  steps += other.steps;
  loss += other.loss;
  tokens += other.tokens;
  images += other.images;
  seconds += other.seconds;
}

void save_training_state(const std::string& folder,
                         const TrainingState& state,
                         const NamedTensors& weights,
                         const NamedTensors& moments) {
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : weights) tensors.push_back(to_write(kWeights + name, tensor));
  for (const auto& [name, tensor] : moments) tensors.push_back(to_write(kMoments + name, tensor));
  tensors.push_back(to_write(kRandomState, random_state()));
  // A file name among the skipped samples need not be UTF-8.
  const std::string text =
      config_to_json(state).dump(-1, ' ', false, Json::error_handler_t::replace);
  write_safetensors(state_file(folder), tensors, {{"state", text}});
}

std::optional<SavedTraining> load_training_state(const std::string& folder) {
  const std::string path = state_file(folder);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const SafetensorsFile file(path);
  const auto text = file.metadata().find("state");
  PV_CHECK(text != file.metadata().end(),
           "{}: no \"state\" in its metadata; delete the folder to start again",
           path);
  SavedTraining saved;
  saved.state = read_config<TrainingState>(parse_json(text->second, path), path);
  for (const auto& [name, view] : file.tensors()) {
    const auto after = [&](const char* prefix) {
      return name.rfind(prefix, 0) == 0 ? name.substr(std::strlen(prefix)) : std::string();
    };
    const torch::Tensor tensor = to_tensor(view, path + ": " + name);
    if (const std::string weight = after(kWeights); !weight.empty()) {
      saved.weights.emplace_back(weight, tensor);
    } else if (const std::string moment = after(kMoments); !moment.empty()) {
      saved.moments.emplace_back(moment, tensor);
    } else {
      PV_CHECK(name == kRandomState, "{}: unexpected tensor {}", path, name);
      set_random_state(tensor);
    }
  }
  return saved;
}

}  // namespace pocketvlm
