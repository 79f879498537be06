#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace pocketvlm {

/// Which components learn in a stage.
struct LearningComponents {
  bool vision_encoder = false, projector = false, language = false;                          // weights of their own
  bool vision_encoder_updates = false, projector_updates = false, language_updates = false;  // low-rank updates (LoRA)
  /// From name patterns of weights and of layers with updates: a component learns when a pattern can match one of its names.
  static LearningComponents of(const std::vector<std::string>& trainable, const std::vector<std::string>& updated = {});
};

/// What a step's packs hold, as far as work depends on it.
struct PackShape {
  int64_t tokens = 0;               // visual and text
  int64_t targets = 0;              // rows that the output layer sees
  double squared_segments = 0;      // sum of the squares of segment lengths
  int64_t patches = 0, slices = 0;
  double squared_slices = 0;        // sum of the squares of patches a slice

  void add(const std::vector<int64_t>& segment_lengths, int64_t num_targets, const std::vector<std::array<int64_t, 2>>& grids);
};

/// Floating-point operations of the matrix products that a training step needs, forward and backward: what model FLOPs
/// utilization (MFU) counts, MFU = this / (seconds * peak of all ranks). Two operations a multiplication; causal attention counts the
/// half that is not masked; a backward costs one forward for the gradients of the inputs, where anything before learns,
/// and one for those of the weights, where they learn; the small products of low-rank updates, and products that are done again
/// (recomputed blocks, the vocabulary loss), are not counted.
double training_operations(const ModelConfig& config, const LearningComponents& learning, const PackShape& shape);

}  // namespace pocketvlm
