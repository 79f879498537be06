#include "trainer/step_guard.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

constexpr double kForget = 1.0 / 50;
constexpr int64_t kLearning = 20;  // steps before one is judged: the first ones fall steeply
constexpr std::size_t kLosses = 51;  // an odd number has a median of its own

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

BadStep judge_step(const GuardConfig& config, const GuardState& state, double loss, double grad_norm) {
  // The sign of a NaN says nothing.
  if (!std::isfinite(loss)) return {fmt::format("the loss is {}", std::abs(loss))};
  if (!std::isfinite(grad_norm)) return {fmt::format("the gradient norm is {}", std::abs(grad_norm))};
  if (config.loss_spike_factor > 0 && state.losses.size() >= static_cast<std::size_t>(kLearning)) {
    const double usual = median(state.losses);
    if (loss > config.loss_spike_factor * usual) {
      return {fmt::format("the loss {:.4g} exceeds {} times its recent median {:.4g}", loss, config.loss_spike_factor, usual), true};
    }
  }
  if (config.spike_factor > 0 && state.good_steps >= kLearning && grad_norm > config.spike_factor * state.mean_norm) {
    return {fmt::format("the gradient norm {:.4g} exceeds {} times its recent mean {:.4g}",
                        grad_norm,
                        config.spike_factor,
                        state.mean_norm)};
  }
  return {};
}

void note_good_step(GuardState& state, double loss, double grad_norm) {
  ++state.good_steps;
  state.bad_in_a_row = 0;
  const double part = std::max(kForget, 1.0 / static_cast<double>(state.good_steps));
  state.mean_norm += part * (grad_norm - state.mean_norm);
  if (state.losses.size() >= kLosses) state.losses.erase(state.losses.begin());
  state.losses.push_back(loss);
}

bool note_bad_step(const GuardConfig& config, GuardState& state, const BadStep& step) {
  ++state.bad_steps;
  if (step.loss_spike) ++state.loss_spikes;
  return ++state.bad_in_a_row > config.max_bad_steps;
}

}  // namespace pocketvlm
