#pragma once

#include "base/safetensors.h"
#include "model/vision_language_model.h"

namespace pocketvlm {

/// Random weights for every parameter of the model, from `seed` and the parameter's name alone: neither other draws of
/// the process nor other parameters change them.
/// Language: truncated normal with language.init_std (beyond two deviations drawn again); the projections that write
/// into the residual stream are divided by sqrt(2 * layers), except where scale_residual does that already.
/// Vision and MLP-type projectors: standard deviation 1 / sqrt(fan in). Resampler: as in the MiniCPM-V release.
void initialize_weights(VisionLanguageModelImpl& model, uint64_t seed);

/// The same weights as tensors of a checkpoint, "F32" or "BF16", each drawn when its turn comes: the memory of one tensor, however
/// large the model.
std::vector<TensorToWrite> random_tensors(const ModelConfig& config, uint64_t seed, const std::string& dtype);

}  // namespace pocketvlm
