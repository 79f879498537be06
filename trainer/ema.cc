#include "trainer/ema.h"

#include <ATen/ops/_foreach_lerp.h>

#include <map>
#include <string_view>

#include "model/lora.h"

namespace pocketvlm {
namespace {

/// Whether a parameter is the weight of a Linear with a low-rank update.
bool has_update(const std::string& name, const torch::OrderedDict<std::string, torch::Tensor>& parameters) {
  constexpr std::string_view kWeight = "weight";
  return name.ends_with(kWeight) && parameters.contains(name.substr(0, name.size() - kWeight.size()) + "lora_a");
}

}  // namespace

Ema::Ema(double decay, const std::vector<TensorSlice>& parts) : decay_(decay) {
  const torch::NoGradGuard no_grad;
  for (const TensorSlice& part : parts) {
    weights_.push_back(part.values);
    values_.push_back(part.values.detach().clone());
    averages_.push_back({part.name, values_.back(), part.shape, part.begin});
  }
}

void Ema::update() {
  const torch::NoGradGuard no_grad;
  if (!values_.empty()) at::_foreach_lerp_(values_, weights_, 1.0 - decay_);
}

void save_averaged_model(const LoadedModel& model,
                         const NamedTensors& averages,
                         const LoraConfig* lora,
                         const std::string& tokenizer_path,
                         const std::string& folder) {
  const torch::NoGradGuard no_grad;
  VisionLanguageModel averaged(model.config);
  if (lora != nullptr) add_lora(*averaged, *lora, /*seed=*/0);  // its factors are among the averages
  const std::map<std::string, torch::Tensor> values(averages.begin(), averages.end());
  const auto trained = model.model->named_parameters();
  for (auto& item : averaged->named_parameters()) {
    const auto found = values.find(item.key());
    torch::Tensor value = found != values.end() ? found->second : trained[item.key()].detach();
    if (found == values.end() && has_update(item.key(), trained)) value = value.clone();  // merging adds to it in place
    item.value().set_data(value);
  }
  const auto buffers = model.model->named_buffers();
  for (auto& item : averaged->named_buffers()) item.value().copy_(buffers[item.key()]);
  merge_lora(*averaged);
  save_model(averaged, tokenizer_path, folder);
}

}  // namespace pocketvlm
