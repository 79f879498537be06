#include "model/vision_language_model.h"

#include "base/error.h"
#include "model/initialization.h"
#include "model/name_patterns.h"
#include "model/strips.h"
#include "model/token_log_probs.h"

namespace pocketvlm {
namespace {

bool any_trainable(torch::nn::Module& module) {
  for (const torch::Tensor& parameter : module.parameters()) {
    if (parameter.requires_grad()) return true;
  }
  return false;
}

}  // namespace

VisionLanguageModelImpl::VisionLanguageModelImpl(const ModelConfig& config, uint64_t seed) : config_(config) {
  build();
  initialize_weights(*this, seed);
}

VisionLanguageModelImpl::VisionLanguageModelImpl(const ModelConfig& config) : config_(config) {
  const PlaceholderWeights guard;
  build();
}

void VisionLanguageModelImpl::build() {
  vision_encoder = register_module("vision_encoder", VisionEncoder(config_.vision, config_.image.patch_size));
  projector = register_module(
      "projector", make_projector(config_.projector, config_.vision.hidden, config_.language.hidden));
  language = register_module("language", Decoder(config_.language));
}

torch::Tensor VisionLanguageModelImpl::vision_features(const torch::Tensor& patches,
                                                       const std::vector<std::array<int64_t, 2>>& grids,
                                                       int64_t longest) {
  return pads_slices() ? encode_strips(vision_encoder, patches, grids, longest) : vision_encoder->forward(patches, grids);
}

torch::Tensor VisionLanguageModelImpl::encode_images(const torch::Tensor& patches,
                                                     const std::vector<std::array<int64_t, 2>>& grids) {
  torch::Tensor features;
  if (any_trainable(*vision_encoder)) {
    features = vision_features(patches, grids);
  } else {
    torch::NoGradGuard no_grad;
    features = vision_features(patches, grids);
  }
  return projector->forward(features, grids);
}

torch::Tensor VisionLanguageModelImpl::embed(const Batch& batch, const torch::Tensor& visual) {
  const torch::Tensor text = language->embed(batch.input_ids);
  if (!batch.visual_positions.defined() || batch.visual_positions.size(0) == 0) return text;
  PV_CHECK(visual.defined(),
           "model: the batch has {} places for visual tokens but no encoded images",
           batch.visual_positions.size(0));
  const torch::Tensor rows = visual.index_select(0, batch.visual_rows).to(torch::kFloat32);
  return text.index_copy(0, batch.visual_positions, rows);
}

torch::Tensor VisionLanguageModelImpl::hidden_states(const Batch& batch) {
  return hidden_states(batch,
                       batch.patches.defined() ? encode_images(batch.patches, batch.grids) : torch::Tensor());
}

torch::Tensor VisionLanguageModelImpl::hidden_states(const Batch& batch, const torch::Tensor& visual) {
  return language->forward(embed(batch, visual), batch.position_ids, batch.segment_lengths);
}

torch::Tensor VisionLanguageModelImpl::loss_sum(const Batch& batch) {
  return loss_sum_of(batch, batch.patches.defined() ? encode_images(batch.patches, batch.grids) : torch::Tensor());
}

torch::Tensor VisionLanguageModelImpl::loss_sum(const Batch& batch, const torch::Tensor& features) {
  return loss_sum_of(batch, features.defined() ? projector->forward(features, batch.grids) : torch::Tensor());
}

torch::Tensor VisionLanguageModelImpl::loss_sum_of(const Batch& batch, const torch::Tensor& visual) {
  // Rows without weight cost nothing: SFT pays for answers only.
  const torch::Tensor rows =
      (batch.labels >= 0).logical_and(batch.loss_weights != 0).nonzero().squeeze(1);
  const torch::Tensor hidden =
      language->forward(embed(batch, visual), batch.position_ids, batch.segment_lengths, rows);
  const torch::Tensor log_probs =
      token_log_probs(hidden, language->output_weight(), batch.labels.index_select(0, rows));
  return -(log_probs * batch.loss_weights.index_select(0, rows)).sum();
}

torch::Tensor VisionLanguageModelImpl::target_log_probs(const Batch& batch, const torch::Tensor& hidden) {
  return token_log_probs(hidden, language->output_weight(), batch.labels.index_select(0, target_rows(batch)));
}

torch::Tensor VisionLanguageModelImpl::logits(const torch::Tensor& hidden) {
  const torch::Tensor x = hidden.to(compute_dtype());
  return product(x, language->output_weight(), {}).to(torch::kFloat32);
}

torch::Tensor target_rows(const Batch& batch) { return (batch.labels >= 0).nonzero().squeeze(1); }

std::vector<std::string> set_trainable(torch::nn::Module& model, const std::vector<std::string>& patterns) {
  auto parameters = model.named_parameters();
  std::vector<std::string> names;
  for (const auto& item : parameters) names.push_back(item.key());
  const std::vector<bool> chosen = match_names(names, patterns, "trainable");
  std::vector<std::string> trainable;
  for (std::size_t i = 0; i < names.size(); ++i) {
    parameters[names[i]].requires_grad_(chosen[i]);
    if (chosen[i]) trainable.push_back(names[i]);
  }
  return trainable;
}

}  // namespace pocketvlm
