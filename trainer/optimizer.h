#pragma once

#include <torch/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trainer/stage_config.h"

namespace pocketvlm {

/// Learning-rate factor (0..1] of `step` (first step = 0) under warm-up and schedule. Warm-up rises linearly and reaches
/// 1 at its last step; cosine, linear and wsd reach final_ratio at the last step of all.
double schedule_factor(const OptimizerConfig& config, int64_t step, int64_t total_steps);

/// The nearest matrix with all singular values near 1 (between about 0.7 and 1.2), by five Newton-Schulz steps with the
/// quintic of Muon (Jordan et al. 2024), in bfloat16. x [batch, rows, columns]; returns the same shape, float32.
torch::Tensor orthogonalized(const torch::Tensor& x);

/// AdamW on float32 master weights, through LibTorch's fused kernel; matrices that match `orthogonalized` get Muon's update
/// instead, scaled by 0.2 sqrt(longer side) to AdamW's usual size (Liu et al. 2025, Muon is scalable, section 2.2), with
/// beta1 as momentum (Nesterov). Weight decay skips tensors with fewer than two dimensions.
/// A parameter that got no gradient counts as one with gradient zero, so that it does not matter which rank saw a picture.
class Optimizer {
 public:
  /// Throws Error when there is no parameter, when one is not float32, or when a pattern matches none.
  Optimizer(OptimizerConfig config, std::vector<std::pair<std::string, torch::Tensor>> parameters, int64_t total_steps);

  /// Clips, updates, clears gradients. Returns the gradient norm before clipping; throws Error when it is not finite (no
  /// parameter is touched then). `scale` multiplies every gradient first (1 / global target weight).
  double step(double scale);
  int64_t steps_done() const { return step_; }
  double learning_rate() const;  // of the next step

  /// Moments by parameter name, for checkpoints: "<name>.exp_avg" and, under AdamW, "<name>.exp_avg_sq".
  std::vector<std::pair<std::string, torch::Tensor>> state() const;
  /// Copies moments back; missing, unexpected or misshapen ones are an Error.
  void restore(const std::vector<std::pair<std::string, torch::Tensor>>& state, int64_t steps_done);

 private:
  OptimizerConfig config_;
  int64_t total_steps_;
  int64_t step_ = 0;
  struct Group;
  std::vector<std::shared_ptr<Group>> groups_;
};

}  // namespace pocketvlm
