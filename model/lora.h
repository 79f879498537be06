#pragma once

#include <string>
#include <vector>

#include "model/lora_config.h"
#include "model/vision_language_model.h"

namespace pocketvlm {

/// Adds low-rank updates W + alpha/rank * B A to every Linear that matches, named <module>.lora_a [rank, in] and <module>.lora_b
/// [out, rank] (b starts at zero: the model is unchanged at first). Returns the module names; none is an Error.
std::vector<std::string> add_lora(torch::nn::Module& model, const LoraConfig& config, uint64_t seed);
/// While one lives on a thread, its forwards leave all updates out: the model as it was before add_lora.
class WithoutLora {
 public:
  WithoutLora();
  ~WithoutLora();
  WithoutLora(const WithoutLora&) = delete;
  WithoutLora& operator=(const WithoutLora&) = delete;
};
/// Whether this thread's forwards leave them out.
bool lora_is_left_out();

/// Folds the updates into the weights and removes them.
void merge_lora(torch::nn::Module& model);

}  // namespace pocketvlm
