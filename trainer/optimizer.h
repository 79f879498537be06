#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trainer/stage_config.h"
#include "trainer/tensor_slice.h"

namespace pocketvlm {

/// Learning-rate factor (0..1] of `step` (first step = 0) under warm-up and schedule. Warm-up rises linearly and reaches
/// 1 at its last step; cosine, linear and wsd reach final_ratio at the last step of all.
double schedule_factor(const OptimizerConfig& config, int64_t step, int64_t total_steps);

/// The nearest matrix with all singular values near 1 (between about 0.7 and 1.2), by five Newton-Schulz steps with the
/// quintic of Muon (Jordan et al. 2024), in bfloat16. x [batch, rows, columns]; returns the same shape, float32.
torch::Tensor orthogonalized(const torch::Tensor& x);

/// What an optimizer that updates a part of the numbers needs from those that update the others; empty: it has them all.
struct PartsExchange {
  /// All tensors that learn, also those of which no number is updated here: name and shape.
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors;
  std::function<double(double)> sum;
  /// Gives `use` the place of a part and the whole tensor behind it, put together from the values that all optimizers give
  /// for their parts (undefined: not wanted). Collective.
  std::function<void(const std::vector<torch::Tensor>& values,
                     const std::function<bool(const std::string&)>& wanted,
                     const std::function<void(std::size_t, const torch::Tensor&)>& use)>
      gather;
};

/// AdamW on float32 master weights, through LibTorch's fused kernel or, on a GPU, one of our own; matrices that match `orthogonalized` get Muon's update
/// instead, scaled by 0.2 sqrt(longer side) to AdamW's usual size (Liu et al. 2025, Muon is scalable, section 2.2), with
/// beta1 as momentum (Nesterov). Weight decay skips tensors with fewer than two dimensions.
/// A parameter that got no gradient counts as one with gradient zero, so that it does not matter which rank saw a picture.
class Optimizer {
 public:
  /// Throws Error when there is no parameter, when one is not float32, or when a pattern matches none.
  Optimizer(OptimizerConfig config, std::vector<std::pair<std::string, torch::Tensor>> parameters, int64_t total_steps);

  /// The same for runs of numbers of the tensors; the others are updated elsewhere.
  Optimizer(OptimizerConfig config, const std::vector<TensorSlice>& parts, int64_t total_steps, PartsExchange exchange);

  /// Clips, updates, clears gradients. Returns the gradient norm before clipping; throws Error when it is not finite (no
  /// parameter is touched then). `scale` multiplies every gradient first (1 / global target weight).
  double step(double scale);
  /// The two halves of a step, and what stands for the second when the gradients are not to be used: the schedule goes on.
  double gradient_norm(double scale);
  void update(double scale, double norm);
  void skip();
  int64_t steps_done() const { return step_; }
  double learning_rate() const;  // of the next step

  /// Moments by parameter name, for checkpoints: "<name>.exp_avg" and, under AdamW, "<name>.exp_avg_sq".
  std::vector<std::pair<std::string, torch::Tensor>> state() const;
  std::vector<TensorSlice> moments() const;
  void set_steps_done(int64_t steps) { step_ = steps; }
  /// Copies moments back; missing, unexpected or misshapen ones are an Error.
  void restore(const std::vector<std::pair<std::string, torch::Tensor>>& state, int64_t steps_done);

 private:
  OptimizerConfig config_;
  int64_t total_steps_;
  int64_t step_ = 0;
  struct Group;
  void update_apart(double factor, double rate);
  std::vector<std::shared_ptr<Group>> groups_;
  PartsExchange exchange_;
};

}  // namespace pocketvlm
