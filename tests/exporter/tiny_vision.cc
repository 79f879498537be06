#include "tests/exporter/tiny_vision.h"

#include <filesystem>

#include "base/safetensors.h"
#include "model/checkpoint.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {

std::map<std::string, ModelConfig> tiny_vision_parts() {
  std::map<std::string, ModelConfig> parts;
  ModelConfig newest = tiny_config();  // 2.6
  newest.language.head_dim = 8;
  parts["bucketed, resampler"] = newest;

  ModelConfig second = newest;
  second.vision.positions = "interpolated";
  second.vision.activation = "gelu_erf";
  second.projector.positions = "key_and_query";
  second.projector.num_queries = second.prompt.num_queries = 4;
  parts["interpolated, resampler with query positions"] = second;

  ModelConfig first = second;
  first.projector.positions = "interpolated";
  parts["resampler with interpolated keys"] = first;

  ModelConfig strips = newest;
  strips.vision.strip_quirk = true;
  strips.compat = "released";
  parts["strips"] = strips;

  for (const char* kind : {"ldp", "ldpv2", "mlp"}) {
    ModelConfig mobile = tiny_clip_config();
    mobile.projector.kind = kind;
    mobile.projector.num_queries = mobile.prompt.num_queries = std::string(kind) == "mlp" ? 36 : 9;
    parts[std::string("CLIP, ") + kind] = mobile;
  }
  return parts;
}

void save_tiny_vision(const ModelConfig& config, const std::string& folder) {
  std::filesystem::create_directories(folder);
  VisionLanguageModel model(config, 5);
  scatter_weights(*model, 6);
  std::vector<torch::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  const auto keep = [&](const std::string& name, const torch::Tensor& value) {
    if (name.starts_with("language.")) return;
    kept.push_back(value.detach().contiguous());
    tensors.push_back({name, "F32", kept.back().sizes().vec(), [tensor = kept.back()] {
                         return std::span(static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes());
                       }});
  };
  for (const auto& item : model->named_parameters()) keep(item.key(), item.value());
  // As a release has them: rounded to its type.
  for (const auto& item : model->named_buffers()) keep(item.key(), item.value().to(torch::kBFloat16).to(torch::kFloat32));
  write_safetensors(folder + "/model.safetensors", tensors);
  write_checkpoint_config(config, folder);
}

}  // namespace pocketvlm
