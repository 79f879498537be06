#pragma once

#include <functional>
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
/// `held`, `stays_mapped`: see load_weights.
LoadedModel load_model(const std::string& folder,
                       torch::Dtype held = torch::kFloat32,
                       const std::function<bool(const std::string& parameter)>& stays_mapped = {});
ModelConfig load_checkpoint_config(const std::string& folder);
void write_checkpoint_config(const ModelConfig& config, const std::string& folder);

/// Throws Error when a vocabulary does not fit a model: more pieces than rows, or pieces missing that its chats need. `where`: the
/// vocabulary's file or folder.
void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where);

/// Gives every parameter of `model` the tensor of its name in a checkpoint folder (same shapes required; all tensors required).
///   held float32    master copies, whatever the folder's dtype: a model that can be trained
///   held bfloat16   for running only, under a ComputeDtype of bfloat16: matrices stay as the folder has them where that is
///                   bfloat16, in the mapped file, so that memory is the file's size; others are converted one by one. Vectors
///                   (norms, biases) and position tables are float32. Parameters must be placeholders.
/// Parameters that `stays_mapped` names are only to be read, by whoever copies them: they lie in the mapped file, in its dtype. They
/// must be placeholders, too.
void load_weights(const std::string& folder,
                  torch::nn::Module& model,
                  torch::Dtype held = torch::kFloat32,
                  const std::function<bool(const std::string& parameter)>& stays_mapped = {});

/// Gives back the memory of weights that lie in a mapped file (see load_weights); they are read again when they are used again.
/// Does nothing for weights in memory.
void release_mapped_weights(const torch::nn::Module& module);

/// What a folder is best held as for running: bfloat16 where all its matrices are, else float32.
torch::Dtype stored_dtype(const std::string& folder);

/// 64-bit hash over names, shapes and bits, as float32, of the parameters whose names match the patterns.
std::string weights_hash(const torch::nn::Module& model, const std::vector<std::string>& patterns);

}  // namespace pocketvlm
