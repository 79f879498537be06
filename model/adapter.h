#pragma once

#include <string>

#include "model/config.h"
#include "model/lora.h"

/// Adapter folders in PEFT's form: adapter_config.json and adapter_model.safetensors, whose names are those that the released code's
/// modules have, so that PEFT loads them on the released model.
namespace pocketvlm {

/// Writes the updates that add_lora put into `model`. A projector whose every parameter requires a gradient goes into the file whole
/// (modules_to_save), as the released LoRA recipes train it. `base`: the checkpoint that the adapter belongs to, for people. Throws
/// Error when the released layout has no place for an update.
void save_adapter(torch::nn::Module& model,
                  const ModelConfig& config,
                  const LoraConfig& lora,
                  const std::string& base,
                  const std::string& folder);

struct MergedAdapter {
  std::int64_t layers = 0;    // weights that gained an update
  std::int64_t replaced = 0;  // tensors that the adapter holds whole
};

/// Copies a checkpoint folder, ours or a released one, with an adapter folder's updates folded into the weights:
/// W + alpha / r * B A in float32, written in W's dtype. Everything streams tensor by tensor. Throws Error naming file and tensor
/// when the adapter asks for what cannot be done (other kinds than LoRA, ranks by pattern, biases) or does not fit.
MergedAdapter merge_adapter(const std::string& checkpoint, const std::string& adapter, const std::string& out);

}  // namespace pocketvlm
