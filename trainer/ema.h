#pragma once

#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/lora_config.h"
#include "trainer/tensor_slice.h"
#include "trainer/training_state.h"

namespace pocketvlm {

/// Exponential moving average of what learns: averages begin as the weights of step 0, and after each good step
///   average = decay * average + (1 - decay) * weight
/// in float32. Each rank keeps those of the parts that it updates, as the optimizer keeps their moments.
class Ema {
 public:
  Ema(double decay, const std::vector<TensorSlice>& parts);
  void update();
  /// The averages under the names and places of the parts.
  const std::vector<TensorSlice>& averages() const { return averages_; }

 private:
  double decay_;
  std::vector<torch::Tensor> weights_, values_;
  std::vector<TensorSlice> averages_;
};

/// Writes a checkpoint folder like `model`'s with averages in place of what learned, low-rank updates merged. `model` keeps its
/// weights; it shares with the copy all that did not learn.
///   averages   whole tensors by name; those that are not in the model (heads that it never keeps) are left out
///   lora       what was added to the model and is still there, or null
void save_averaged_model(const LoadedModel& model,
                         const NamedTensors& averages,
                         const LoraConfig* lora,
                         const std::string& tokenizer_path,
                         const std::string& folder);

}  // namespace pocketvlm
