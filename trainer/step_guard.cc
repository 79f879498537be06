#include "trainer/step_guard.h"

#include <cmath>

namespace pocketvlm {
namespace {

constexpr double kForget = 1.0 / 50;
constexpr int64_t kLearning = 20;  // steps before a norm is judged: the first ones fall steeply

}  // namespace

std::string reason_to_skip(const GuardConfig& config, const GuardState& state, double loss, double grad_norm) {
  // The sign of a NaN says nothing.
  if (!std::isfinite(loss)) return fmt::format("the loss is {}", std::abs(loss));
  if (!std::isfinite(grad_norm)) return fmt::format("the gradient norm is {}", std::abs(grad_norm));
  const double limit = config.spike_factor * state.mean_norm;
  if (config.spike_factor > 0 && state.good_steps >= kLearning && grad_norm > limit) {
    return fmt::format("the gradient norm {:.4g} exceeds {} times its recent mean {:.4g}",
                       grad_norm,
                       config.spike_factor,
                       state.mean_norm);
  }
  return {};
}

void note_good_step(GuardState& state, double grad_norm) {
  ++state.good_steps;
  state.bad_in_a_row = 0;
  const double part = std::max(kForget, 1.0 / static_cast<double>(state.good_steps));
  state.mean_norm += part * (grad_norm - state.mean_norm);
}

bool note_bad_step(const GuardConfig& config, GuardState& state) {
  ++state.bad_steps;
  return ++state.bad_in_a_row > config.max_bad_steps;
}

}  // namespace pocketvlm
