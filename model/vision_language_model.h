#pragma once

#include <string>
#include <vector>

#include "model/batch.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/projector.h"
#include "model/vision_encoder.h"

namespace pocketvlm {

/// The whole model: vision_encoder.*, projector.*, language.* are the three components of every freeze schedule.
class VisionLanguageModelImpl : public torch::nn::Module {
 public:
  /// Random weights from `seed` alone, whatever else the process drew.
  VisionLanguageModelImpl(const ModelConfig& config, uint64_t seed);

  /// Without weights: every parameter is a placeholder (model/layers.h) until load_weights gives it its values.
  explicit VisionLanguageModelImpl(const ModelConfig& config);

  /// [patches, vision_hidden], what the projector reads; honours the config's `compat`. longest: see encode_strips; only where slices
  /// are padded.
  torch::Tensor vision_features(const torch::Tensor& patches,
                                const std::vector<std::array<int64_t, 2>>& grids,
                                int64_t longest = 0);

  /// Whether features of a slice depend on the longest slice beside it (encode_strips).
  bool pads_slices() const { return config_.vision.strip_quirk && config_.compat == "released"; }

  /// [slices * queries, hidden]; runs the encoder without a graph when none of its parameters needs gradients.
  torch::Tensor encode_images(const torch::Tensor& patches, const std::vector<std::array<int64_t, 2>>& grids);

  /// Text embeddings with visual rows put in their places. visual: output of encode_images (undefined without images).
  torch::Tensor embed(const Batch& batch, const torch::Tensor& visual);

  /// [tokens, hidden] for a packed batch, in compute dtype.
  torch::Tensor hidden_states(const Batch& batch);
  torch::Tensor hidden_states(const Batch& batch, const torch::Tensor& visual);

  /// Weighted sum of -log p over all targets, float32 scalar; divide by the global target weight outside.
  torch::Tensor loss_sum(const Batch& batch);
  /// The same with vision_features() of the batch's slices that are known already (undefined without images).
  torch::Tensor loss_sum(const Batch& batch, const torch::Tensor& features);

  /// Log-probs of the targets, whose states `hidden` [targets, hidden] holds: those of target_rows(batch). [targets] float32.
  torch::Tensor target_log_probs(const Batch& batch, const torch::Tensor& hidden);

  /// [rows, vocab] float32.
  torch::Tensor logits(const torch::Tensor& hidden);

  const ModelConfig& config() const { return config_; }
  VisionEncoder vision_encoder{nullptr};
  std::shared_ptr<ProjectorImpl> projector;
  Decoder language{nullptr};

 private:
  void build();
  torch::Tensor loss_sum_of(const Batch& batch, const torch::Tensor& visual);

  ModelConfig config_;
};
TORCH_MODULE(VisionLanguageModel);

/// Tokens whose successor is a target, in order: [targets] int64.
torch::Tensor target_rows(const Batch& batch);

/// Makes exactly the parameters trainable whose names match a pattern (`*` matches any run: "projector.*", "*"); all others are
/// frozen. A pattern that matches nothing is an Error. Returns the trainable names.
std::vector<std::string> set_trainable(torch::nn::Module& model, const std::vector<std::string>& patterns);

}  // namespace pocketvlm
