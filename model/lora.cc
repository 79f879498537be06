#include "model/lora.h"

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "model/name_patterns.h"

namespace pocketvlm {
namespace {

thread_local int guards_without_lora = 0;

/// Uniform in +-1/sqrt(in), as LoRA's reference draws A.
torch::Tensor random_factor(int64_t rank, int64_t in_features, uint64_t seed, uint64_t number) {
  torch::Tensor factor = torch::empty({rank, in_features});
  Random random({seed, number});
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
  float* values = factor.data_ptr<float>();
  for (int64_t i = 0; i < factor.numel(); ++i) values[i] = static_cast<float>(random.uniform(-bound, bound));
  return factor;
}

}  // namespace

WithoutLora::WithoutLora() { ++guards_without_lora; }

WithoutLora::~WithoutLora() { --guards_without_lora; }

bool lora_is_left_out() { return guards_without_lora > 0; }

std::vector<std::string> add_lora(torch::nn::Module& model, const LoraConfig& config, uint64_t seed) {
  std::vector<std::string> names;
  std::vector<LinearImpl*> linears;
  for (const auto& item : model.named_modules()) {
    if (auto* linear = item.value()->as<LinearImpl>()) {
      names.push_back(item.key());
      linears.push_back(linear);
    }
  }
  PV_CHECK(!config.targets.empty(), "lora.targets: empty; name the layers that get an update");
  const std::vector<bool> chosen = match_names(names, config.targets, "lora.targets");
  std::vector<std::string> changed;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!chosen[i]) continue;
    LinearImpl& linear = *linears[i];
    PV_CHECK(!linear.lora_a.defined(), "lora: {} has an update already; merge it first", names[i]);
    const torch::Tensor a = random_factor(config.rank, linear.weight.size(1), seed, i).to(linear.weight.device());
    linear.add_lora(a, config.alpha / static_cast<double>(config.rank), config.dropout);
    changed.push_back(names[i]);
  }
  return changed;
}

void merge_lora(torch::nn::Module& model) {
  for (const auto& item : model.named_modules()) {
    if (auto* linear = item.value()->as<LinearImpl>()) linear->merge_lora();
  }
}

}  // namespace pocketvlm
