#include "trainer/optimizer.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <set>
#include <tuple>

#include "base/error.h"
#include "model/name_patterns.h"

namespace pocketvlm {

double schedule_factor(const OptimizerConfig& config, int64_t step, int64_t total_steps) {
  if (step < config.warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  const double last = config.final_ratio;
  if (config.schedule == "constant") return 1.0;
  if (config.schedule == "wsd") {
    const int64_t decay_steps =
        std::min(total_steps - config.warmup_steps, std::max<int64_t>(1, total_steps / 5));
    const int64_t into_decay = step - (total_steps - decay_steps) + 1;
    if (into_decay <= 0) return 1.0;
    return last + (1.0 - last) *
                      (1.0 - static_cast<double>(into_decay) / static_cast<double>(decay_steps));
  }
  const int64_t span = total_steps - 1 - config.warmup_steps;
  const double progress =
      span > 0
          ? std::min(1.0,
                     static_cast<double>(step - config.warmup_steps) / static_cast<double>(span))
          : 1.0;
  if (config.schedule == "linear") return last + (1.0 - last) * (1.0 - progress);
  return last + (1.0 - last) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

torch::Tensor orthogonalized(const torch::Tensor& x) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;  // Muon's: steepest at zero, all values end near 1
  constexpr int kSteps = 5;
  const bool tall = x.size(1) > x.size(2);  // the Gram matrix is made of the shorter side
  torch::Tensor y = tall ? x.transpose(1, 2) : x;
  y = (y / y.norm(2, {1, 2}, /*keepdim=*/true).clamp_min(1e-12)).to(torch::kBFloat16);
  for (int i = 0; i < kSteps; ++i) {
    const torch::Tensor gram = at::bmm(y, y.transpose(1, 2));
    const torch::Tensor polynomial = at::baddbmm(gram, gram, gram, kB, kC);
    y = at::baddbmm(y, polynomial, y, kA, 1.0);
  }
  return (tall ? y.transpose(1, 2) : y).to(torch::kFloat32);
}

/// Tensors that share rule, learning rate and weight decay (and, when orthogonalized, the shape): updated together.
struct Optimizer::Group {
  bool orthogonalize = false;
  double learning_rate_factor = 1.0;
  double weight_decay = 0.0;
  std::vector<std::string> names;
  std::vector<torch::Tensor> parameters, exp_avgs, exp_avg_sqs;
  std::vector<torch::Tensor> steps;  // float32 scalars, which the kernel wants beside each tensor

  std::vector<torch::Tensor> gradients() const {
    std::vector<torch::Tensor> result;
    for (const torch::Tensor& parameter : parameters) {
      torch::Tensor& gradient = parameter.mutable_grad();
      if (!gradient.defined()) gradient = torch::zeros_like(parameter);
      result.push_back(gradient);
    }
    return result;
  }

  void update_orthogonalized(const std::vector<torch::Tensor>& gradients, double rate, double momentum) {
    std::vector<torch::Tensor> ahead;  // Nesterov: the momentum after one more such step
    for (std::size_t i = 0; i < exp_avgs.size(); ++i) {
      exp_avgs[i].lerp_(gradients[i], 1.0 - momentum);
      ahead.push_back(gradients[i].lerp(exp_avgs[i], momentum));
    }
    const torch::Tensor updates = orthogonalized(at::stack(ahead));
    const double size = 0.2 * std::sqrt(static_cast<double>(std::max(updates.size(1), updates.size(2))));
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].mul_(1.0 - rate * weight_decay).sub_(updates[static_cast<int64_t>(i)], rate * size);
    }
  }

  void update_adamw(const std::vector<torch::Tensor>& gradients, double rate, const OptimizerConfig& config, int64_t step) {
    for (torch::Tensor& count : steps) count.fill_(static_cast<double>(step));
    at::_fused_adamw_(parameters,
                      gradients,
                      exp_avgs,
                      exp_avg_sqs,
                      {},
                      steps,
                      rate,
                      config.beta1,
                      config.beta2,
                      weight_decay,
                      config.eps,
                      /*amsgrad=*/false,
                      /*maximize=*/false);
  }
};

Optimizer::Optimizer(OptimizerConfig config,
             std::vector<std::pair<std::string, torch::Tensor>> parameters,
             int64_t total_steps)
    : config_(std::move(config)), total_steps_(total_steps) {
  PV_CHECK(!parameters.empty(), "optimizer: no parameter to train");
  std::set<std::string> unused;
  for (const auto& [pattern, factor] : config_.learning_rate_factors) unused.insert(pattern);

  std::set<std::string> unused_patterns(config_.orthogonalized.begin(), config_.orthogonalized.end());

  // Rule, factor, decay, and the shape of those that are orthogonalized in one batch.
  std::map<std::tuple<bool, double, double, std::vector<int64_t>>, std::shared_ptr<Group>> by_setting;
  const torch::NoGradGuard no_grad;
  for (auto& [name, parameter] : parameters) {
    PV_CHECK(parameter.scalar_type() == torch::kFloat32,
             "optimizer: {} is {}; master weights are float32",
             name,
             c10::toString(parameter.scalar_type()));
    double factor = 1.0;
    for (const auto& [pattern, value] : config_.learning_rate_factors) {
      if (!matches_pattern(name, pattern)) continue;
      factor = value;
      unused.erase(pattern);
    }
    const double decay = parameter.dim() < 2 ? 0.0 : config_.weight_decay;
    bool orthogonalize = false;
    for (const std::string& pattern : config_.orthogonalized) {
      if (parameter.dim() != 2 || !matches_pattern(name, pattern)) continue;
      orthogonalize = true;
      unused_patterns.erase(pattern);
    }
    std::shared_ptr<Group>& group =
        by_setting[{orthogonalize, factor, decay, orthogonalize ? parameter.sizes().vec() : std::vector<int64_t>()}];
    if (!group) {
      group = std::make_shared<Group>();
      group->orthogonalize = orthogonalize;
      group->learning_rate_factor = factor;
      group->weight_decay = decay;
      groups_.push_back(group);
    }
    group->names.push_back(name);
    group->exp_avgs.push_back(torch::zeros_like(parameter));
    if (!orthogonalize) {
      group->exp_avg_sqs.push_back(torch::zeros_like(parameter));
      group->steps.push_back(torch::zeros({}, parameter.options()));
    }
    group->parameters.push_back(std::move(parameter));
  }
  PV_CHECK(unused.empty(),
           "optimizer.learning_rate_factors: \"{}\" matches no trainable parameter",
           *unused.begin());
  PV_CHECK(unused_patterns.empty(),
           "optimizer.orthogonalized: \"{}\" matches no trainable matrix",
           *unused_patterns.begin());
}

double Optimizer::learning_rate() const {
  return config_.learning_rate * schedule_factor(config_, step_, total_steps_);
}

double Optimizer::step(double scale) {
  const torch::NoGradGuard no_grad;
  std::vector<std::vector<torch::Tensor>> gradients;
  std::vector<torch::Tensor> norms;
  for (const auto& group : groups_) {
    gradients.push_back(group->gradients());
    for (torch::Tensor& norm : at::_foreach_norm(gradients.back()))
      norms.push_back(std::move(norm));
  }
  const double norm =
      at::stack(norms).to(torch::kFloat64).square().sum().sqrt().item<double>() * std::abs(scale);
  PV_CHECK(std::isfinite(norm),
           "optimizer step {}: the gradient norm is {}; nothing was updated. Lower "
           "optimizer.learning_rate, or look for "
           "damaged data",
           step_ + 1,
           norm);
  const double factor =
      config_.clip_norm > 0 && norm > config_.clip_norm ? scale * config_.clip_norm / norm : scale;
  const double rate = learning_rate();
  ++step_;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Group& group = *groups_[i];
    at::_foreach_mul_(gradients[i], factor);
    if (group.orthogonalize) {
      group.update_orthogonalized(gradients[i], rate * group.learning_rate_factor, config_.beta1);
    } else {
      group.update_adamw(gradients[i], rate * group.learning_rate_factor, config_, step_);
    }
    for (torch::Tensor& parameter : group.parameters) parameter.mutable_grad().reset();
  }
  return norm;
}

std::vector<std::pair<std::string, torch::Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> result;
  for (const auto& group : groups_) {
    for (std::size_t i = 0; i < group->names.size(); ++i) {
      result.emplace_back(group->names[i] + ".exp_avg", group->exp_avgs[i]);
      if (!group->orthogonalize) result.emplace_back(group->names[i] + ".exp_avg_sq", group->exp_avg_sqs[i]);
    }
  }
  return result;
}

void Optimizer::restore(const std::vector<std::pair<std::string, torch::Tensor>>& state,
                    int64_t steps_done) {
  const torch::NoGradGuard no_grad;
  std::map<std::string, torch::Tensor> saved(state.begin(), state.end());
  for (auto& [name, moment] : this->state()) {
    const auto found = saved.find(name);
    PV_CHECK(found != saved.end(), "optimizer state: {} is missing", name);
    PV_CHECK(
        found->second.sizes() == moment.sizes(), "optimizer state: {} has another shape", name);
    moment.copy_(found->second);
    saved.erase(found);
  }
  PV_CHECK(saved.empty(), "optimizer state: unexpected tensor {}", saved.begin()->first);
  step_ = steps_done;
}

}  // namespace pocketvlm
