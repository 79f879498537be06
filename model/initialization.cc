#include "model/initialization.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <string_view>

#include "base/random.h"

namespace pocketvlm {
namespace {

/// FNV-1a: the key of a parameter's random stream.
uint64_t name_key(std::string_view name) {
  uint64_t key = 0xcbf29ce484222325ULL;
  for (const char c : name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return key;
}

/// Fills with normal values cut at two deviations. Blocks have their own streams, so threads do not matter.
void fill_truncated_normal(torch::Tensor parameter, double deviation, uint64_t seed, uint64_t name) {
  constexpr int64_t kBlock = 1 << 16;
  float* values = parameter.data_ptr<float>();
  const int64_t count = parameter.numel();
  at::parallel_for(0, (count + kBlock - 1) / kBlock, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      Random random({seed, name, static_cast<uint64_t>(block)});
      const int64_t end = std::min(count, (block + 1) * kBlock);
      for (int64_t i = block * kBlock; i < end; ++i) {
        double value = random.normal();
        while (std::abs(value) > 2.0) value = random.normal();
        values[i] = static_cast<float>(deviation * value);
      }
    }
  });
}

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> endings) {
  for (const std::string_view ending : endings) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

/// Divisor of a matrix that writes into the residual stream.
double depth_divisor(const std::string& name, const ModelConfig& config) {
  if (name.starts_with("language.")) {
    const bool writes = ends_with_any(name, {"o_proj.weight", "down_proj.weight"});
    return writes && config.language.scale_residual == 1.0
               ? std::sqrt(2.0 * static_cast<double>(config.language.num_layers))
               : 1.0;
  }
  const bool writes = name.starts_with("vision_encoder.blocks.") &&
                      ends_with_any(name, {"out_proj.weight", "fc2.weight"});
  return writes ? std::sqrt(2.0 * static_cast<double>(config.vision.num_layers)) : 1.0;
}

/// Standard deviation of a parameter that is not a norm or a bias.
double deviation_of(const std::string& name, const torch::Tensor& parameter, const ModelConfig& config) {
  if (name.starts_with("language.")) return config.language.init_std / depth_divisor(name, config);
  if (name.starts_with("vision_encoder.")) {
    if (ends_with_any(name, {"position_embedding", "class_embedding"})) {
      return 1.0 / std::sqrt(static_cast<double>(config.vision.hidden));
    }
    return 1.0 / std::sqrt(static_cast<double>(parameter.size(1))) / depth_divisor(name, config);
  }
  const auto hidden = static_cast<double>(config.language.hidden);
  if (name == "projector.proj") return 1.0 / std::sqrt(hidden);
  if (ends_with_any(name, {"attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"})) {
    return std::sqrt(2.0 / (4.0 * hidden));  // Xavier over the packed [3 hidden, hidden] matrix of the release
  }
  if (config.projector.kind == "resampler") return 0.02;
  const auto fan_in = static_cast<double>(parameter.numel() / parameter.size(0));
  return 1.0 / std::sqrt(fan_in);
}

void draw_parameter(const std::string& name, torch::Tensor parameter, const ModelConfig& config, uint64_t seed) {
  if (ends_with_any(name, {"bias"})) {
    parameter.zero_();
  } else if (parameter.dim() == 1 && !ends_with_any(name, {"class_embedding"})) {
    parameter.fill_(1.0);  // scales of norms
  } else {
    fill_truncated_normal(parameter, deviation_of(name, parameter, config), seed, name_key(name));
  }
}

}  // namespace

void initialize_weights(VisionLanguageModelImpl& model, uint64_t seed) {
  torch::NoGradGuard no_grad;
  for (auto& item : model.named_parameters()) draw_parameter(item.key(), item.value(), model.config(), seed);
}

std::vector<TensorToWrite> random_tensors(const ModelConfig& config, uint64_t seed, const std::string& dtype) {
  TORCH_INTERNAL_ASSERT(dtype == "F32" || dtype == "BF16");
  const torch::NoGradGuard no_grad;
  const VisionLanguageModel shapes(config);
  const auto drawn = std::make_shared<torch::Tensor>();  // one at a time
  std::vector<TensorToWrite> tensors;
  for (const auto& item : shapes->named_parameters()) {
    tensors.push_back({item.key(), dtype, item.value().sizes().vec(), [=, name = item.key(), shape = item.value().sizes().vec()] {
                         const torch::NoGradGuard no_grad;
                         *drawn = torch::empty(shape, torch::kFloat32);
                         draw_parameter(name, *drawn, config, seed);
                         if (dtype == "BF16") *drawn = drawn->to(torch::kBFloat16);
                         return std::span(static_cast<const std::byte*>(drawn->data_ptr()), drawn->nbytes());
                       }});
  }
  return tensors;
}

}  // namespace pocketvlm
