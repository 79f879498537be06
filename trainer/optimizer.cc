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
#include <tuple>

#include "base/error.h"
#include "model/kernel_calls.h"
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
  bool apart = false;  // orthogonalized, but other optimizers hold the rest of each matrix
  double learning_rate_factor = 1.0;
  double weight_decay = 0.0;
  std::vector<std::size_t> places;  // among the parts that the optimizer was given
  std::vector<TensorSlice> parts;   // their values: `parameters`
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
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      move(i, updates[static_cast<int64_t>(i)], updates.size(1), updates.size(2), rate);
    }
  }

  void move(std::size_t i, const torch::Tensor& update, int64_t rows, int64_t columns, double rate) {
    const double size = 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns)));
    parameters[i].mul_(1.0 - rate * weight_decay).sub_(update, rate * size);
  }

  void update_adamw(
      const std::vector<torch::Tensor>& gradients, double factor, double rate, const OptimizerConfig& config, int64_t step) {
#ifdef POCKETVLM_CUDA
    if (!parameters.empty() && parameters.front().is_cuda()) return update_adamw_on_device(gradients, factor, rate, config, step);
#endif
    at::_foreach_mul_(gradients, factor);
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

#ifdef POCKETVLM_CUDA
  /// By our own kernel: all tensors in a few launches, gradients scaled on the way.
  void update_adamw_on_device(
      const std::vector<torch::Tensor>& gradients, double factor, double rate, const OptimizerConfig& config, int64_t step) {
    std::vector<torch::Tensor> dense;  // keeps copies alive until the kernels are queued
    std::vector<kernels::AdamwTensor> tensors;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      TORCH_INTERNAL_ASSERT(parameters[i].is_contiguous() && parameters[i].device() == parameters.front().device());
      dense.push_back(gradients[i].contiguous());
      tensors.push_back({parameters[i].data_ptr<float>(),
                         dense.back().data_ptr<float>(),
                         exp_avgs[i].data_ptr<float>(),
                         exp_avg_sqs[i].data_ptr<float>(),
                         parameters[i].numel()});
    }
    const auto steps_done = static_cast<double>(step);
    const kernels::Adamw args = {.tensors = tensors.data(),
                                 .grad_scale = static_cast<float>(factor),
                                 .avg_share = static_cast<float>(1.0 - config.beta1),
                                 .beta2 = static_cast<float>(config.beta2),
                                 .sq_share = static_cast<float>(1.0 - config.beta2),
                                 .kept = static_cast<float>(1.0 - rate * weight_decay),
                                 .step_size = static_cast<float>(rate / (1.0 - std::pow(config.beta1, steps_done))),
                                 .root_correction = static_cast<float>(std::sqrt(1.0 - std::pow(config.beta2, steps_done))),
                                 .eps = static_cast<float>(config.eps)};
    on_stream_of(parameters.front(), [&](kernels::Stream stream) {
      kernels::device_table().adamw(args, static_cast<int64_t>(tensors.size()), stream);
    });
  }
#endif
};

namespace {

std::vector<TensorSlice> whole_parts(const std::vector<std::pair<std::string, torch::Tensor>>& parameters) {
  std::vector<TensorSlice> parts;
  for (const auto& [name, parameter] : parameters) parts.push_back(whole_tensor(name, parameter));
  return parts;
}

bool is_orthogonalized(const OptimizerConfig& config, const std::string& name, const std::vector<int64_t>& shape) {
  return shape.size() == 2 &&
         std::any_of(config.orthogonalized.begin(), config.orthogonalized.end(), [&](const std::string& pattern) {
           return matches_pattern(name, pattern);
         });
}

/// Throws Error for a pattern that matches none of the tensors that learn.
void check_patterns(const OptimizerConfig& config,
                    const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors) {
  const auto matches_any = [&](const std::string& pattern, std::size_t dims) {
    return std::any_of(tensors.begin(), tensors.end(), [&](const auto& tensor) {
      return (dims == 0 || tensor.second.size() == dims) && matches_pattern(tensor.first, pattern);
    });
  };
  for (const auto& [pattern, factor] : config.learning_rate_factors) {
    PV_CHECK(matches_any(pattern, 0), "optimizer.learning_rate_factors: \"{}\" matches no trainable parameter", pattern);
  }
  for (const std::string& pattern : config.orthogonalized) {
    PV_CHECK(matches_any(pattern, 2), "optimizer.orthogonalized: \"{}\" matches no trainable matrix", pattern);
  }
}

}  // namespace

Optimizer::Optimizer(OptimizerConfig config,
                     std::vector<std::pair<std::string, torch::Tensor>> parameters,
                     int64_t total_steps)
    : Optimizer(std::move(config), whole_parts(parameters), total_steps, {}) {}

Optimizer::Optimizer(OptimizerConfig config,
                     const std::vector<TensorSlice>& parts,
                     int64_t total_steps,
                     PartsExchange exchange)
    : config_(std::move(config)), total_steps_(total_steps), exchange_(std::move(exchange)) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors = exchange_.tensors;
  if (!exchange_.gather) {
    for (const TensorSlice& part : parts) tensors.emplace_back(part.name, part.shape);
  }
  PV_CHECK(!tensors.empty(), "optimizer: no parameter to train");
  check_patterns(config_, tensors);

  // Rule, factor, decay, and the shape of those that are orthogonalized in one batch.
  std::map<std::tuple<bool, double, double, std::vector<int64_t>>, std::shared_ptr<Group>> by_setting;
  const torch::NoGradGuard no_grad;
  for (std::size_t place = 0; place < parts.size(); ++place) {
    const TensorSlice& part = parts[place];
    PV_CHECK(part.values.scalar_type() == torch::kFloat32,
             "optimizer: {} is {}; master weights are float32",
             part.name,
             c10::toString(part.values.scalar_type()));
    double factor = 1.0;
    for (const auto& [pattern, value] : config_.learning_rate_factors) {
      if (matches_pattern(part.name, pattern)) factor = value;
    }
    const double decay = part.shape.size() < 2 ? 0.0 : config_.weight_decay;
    const bool orthogonalize = is_orthogonalized(config_, part.name, part.shape);
    std::shared_ptr<Group>& group =
        by_setting[{orthogonalize, factor, decay, orthogonalize ? part.shape : std::vector<int64_t>()}];
    if (!group) {
      group = std::make_shared<Group>();
      group->orthogonalize = orthogonalize;
      group->apart = orthogonalize && exchange_.gather;
      group->learning_rate_factor = factor;
      group->weight_decay = decay;
      groups_.push_back(group);
    }
    group->places.push_back(place);
    group->parts.push_back(part);
    group->exp_avgs.push_back(torch::zeros_like(part.values));
    if (!orthogonalize) {
      group->exp_avg_sqs.push_back(torch::zeros_like(part.values));
      group->steps.push_back(torch::zeros({}, part.values.options()));
    }
    group->parameters.push_back(part.values);
  }
}

double Optimizer::learning_rate() const {
  return config_.learning_rate * schedule_factor(config_, step_, total_steps_);
}

double Optimizer::step(double scale) {
  const double norm = gradient_norm(scale);
  PV_CHECK(std::isfinite(norm),
           "optimizer step {}: the gradient norm is {}; nothing was updated. Lower "
           "optimizer.learning_rate, or look for "
           "damaged data",
           step_ + 1,
           norm);
  update(scale, norm);
  return norm;
}

double Optimizer::gradient_norm(double scale) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> norms;
  for (const auto& group : groups_) {
    for (torch::Tensor& norm : at::_foreach_norm(group->gradients())) norms.push_back(std::move(norm));
  }
  double square = norms.empty() ? 0.0 : at::stack(norms).to(torch::kFloat64).square().sum().item<double>();
  if (exchange_.sum) square = exchange_.sum(square);
  return std::sqrt(square) * std::abs(scale);
}

void Optimizer::update(double scale, double norm) {
  const torch::NoGradGuard no_grad;
  const double factor =
      config_.clip_norm > 0 && norm > config_.clip_norm ? scale * config_.clip_norm / norm : scale;
  const double rate = learning_rate();
  ++step_;
  for (const auto& group : groups_) {
    if (group->apart) continue;
    const std::vector<torch::Tensor> gradients = group->gradients();
    if (group->orthogonalize) {
      at::_foreach_mul_(gradients, factor);
      group->update_orthogonalized(gradients, rate * group->learning_rate_factor, config_.beta1);
    } else {
      group->update_adamw(gradients, factor, rate * group->learning_rate_factor, config_, step_);
    }
  }
  if (exchange_.gather && !config_.orthogonalized.empty()) update_apart(factor, rate);
  for (const auto& group : groups_) {
    for (torch::Tensor& parameter : group->parameters) parameter.mutable_grad().reset();
  }
}

/// Muon on runs of matrices: momentum is kept by run, the matrix that is orthogonalized is put together from all of them.
void Optimizer::update_apart(double factor, double rate) {
  std::vector<torch::Tensor> ahead;  // by place
  std::map<std::size_t, std::pair<Group*, std::size_t>> at_place;
  for (const auto& group : groups_) {
    if (!group->apart) continue;
    const std::vector<torch::Tensor> gradients = group->gradients();
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const torch::Tensor gradient = gradients[i].mul_(factor);
      group->exp_avgs[i].lerp_(gradient, 1.0 - config_.beta1);
      at_place[group->places[i]] = {group.get(), i};
      ahead.resize(std::max(ahead.size(), group->places[i] + 1));
      ahead[group->places[i]] = gradient.lerp(group->exp_avgs[i], config_.beta1);
    }
  }
  std::size_t places = 0;
  for (const auto& group : groups_) places = std::max(places, group->places.back() + 1);
  ahead.resize(places);
  std::map<std::string, std::vector<int64_t>> shapes(exchange_.tensors.begin(), exchange_.tensors.end());
  const auto wanted = [&](const std::string& name) { return is_orthogonalized(config_, name, shapes.at(name)); };
  exchange_.gather(ahead, wanted, [&](std::size_t place, const torch::Tensor& whole) {
    const auto [group, i] = at_place.at(place);
    const TensorSlice& part = group->parts[i];
    const torch::Tensor update = orthogonalized(whole.unsqueeze(0)).flatten();
    group->move(i,
                update.narrow(0, part.begin, part.values.numel()).view(part.values.sizes()),
                whole.size(0),
                whole.size(1),
                rate * group->learning_rate_factor);
  });
}

void Optimizer::skip() {
  for (const auto& group : groups_) {
    for (torch::Tensor& parameter : group->parameters) parameter.mutable_grad().reset();
  }
  ++step_;
}

std::vector<TensorSlice> Optimizer::moments() const {
  std::vector<TensorSlice> result;
  const auto add = [&](const TensorSlice& part, const char* moment, const torch::Tensor& values) {
    result.push_back({part.name + moment, values, part.shape, part.begin});
  };
  for (const auto& group : groups_) {
    for (std::size_t i = 0; i < group->parts.size(); ++i) {
      add(group->parts[i], ".exp_avg", group->exp_avgs[i]);
      if (!group->orthogonalize) add(group->parts[i], ".exp_avg_sq", group->exp_avg_sqs[i]);
    }
  }
  return result;
}

std::vector<std::pair<std::string, torch::Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, torch::Tensor>> result;
  for (const TensorSlice& moment : moments()) result.emplace_back(moment.name, moment.values);
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
