#pragma once

#include <memory>
#include <string>

#include "model/vision_language_model.h"

namespace pocketvlm {

/// A checkpoint folder: config.json ({"format": "pocketvlm", "model": ModelConfig}), model.safetensors (float32, names of
/// named_parameters()), tokenizer.model. Written to a temporary folder and renamed: never half there.
void save_model(const VisionLanguageModel& model, const std::string& tokenizer_path, const std::string& folder);

/// Model, tokenizer and prompt encoder of a checkpoint folder. Missing, unexpected or misshapen tensors are listed by name.
struct LoadedModel {
  ModelConfig config;
  VisionLanguageModel model{nullptr};
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<PromptEncoder> encoder;
};
LoadedModel load_model(const std::string& folder);
ModelConfig load_checkpoint_config(const std::string& folder);

/// Copies the tensors of a checkpoint folder into `model` (same shapes required; all tensors required).
void load_weights(const std::string& folder, torch::nn::Module& model);

/// 64-bit hash over names, shapes and bits of the parameters whose names match the patterns.
std::string weights_hash(const torch::nn::Module& model, const std::vector<std::string>& patterns);

}  // namespace pocketvlm
