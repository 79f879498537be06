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

/// AdamW on float32 master weights, through LibTorch's fused kernel. Weight decay skips tensors with fewer than two dimensions.
/// A parameter that got no gradient counts as one with gradient zero, so that it does not matter which rank saw a picture.
class AdamW {
 public:
  /// Throws Error when there is no parameter, when one is not float32, or when a learning-rate pattern matches none.
  AdamW(OptimizerConfig config, std::vector<std::pair<std::string, torch::Tensor>> parameters, int64_t total_steps);

  /// Clips, updates, clears gradients. Returns the gradient norm before clipping; throws Error when it is not finite (no
  /// parameter is touched then). `scale` multiplies every gradient first (1 / global target weight).
  double step(double scale);
  int64_t steps_done() const { return step_; }
  double learning_rate() const;  // of the next step

  /// Moments by parameter name, for checkpoints: "<name>.exp_avg", "<name>.exp_avg_sq".
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
