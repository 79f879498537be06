#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"

namespace pocketvlm {

/// What to do with a step whose loss or gradients cannot be right. LibTorch-free.
struct GuardConfig {
  int64_t max_bad_steps = 0;
  double spike_factor = 0;
  double loss_spike_factor = 0;

  void visit_fields(auto&& field) {
    field("max_bad_steps",
          max_bad_steps,
          "steps in a row that are skipped (weights untouched, reported) when loss or gradients are not finite or spike; "
          "one more stops the stage",
          in_range(0, 1e9));
    field("spike_factor",
          spike_factor,
          "a gradient norm beyond this many times its recent mean is a spike; 0: norms are not judged",
          in_range(0, 1e9));
    field("loss_spike_factor",
          loss_spike_factor,
          "a loss beyond this many times the median of the last 51 good steps is a spike; 0: losses are not judged",
          in_range(0, 1e9));
  }
};

/// What the guard knows; part of the resumable state.
struct GuardState {
  double mean_norm = 0;   // of good steps, exponential, over about 50 of them
  std::vector<double> losses;  // of the last good steps, the oldest first
  int64_t good_steps = 0;
  int64_t bad_in_a_row = 0;
  int64_t bad_steps = 0;  // of the whole stage
  int64_t loss_spikes = 0;  // of these, for their loss

  void visit_fields(auto&& field) {
    field("mean_norm", mean_norm, "recent mean of the gradient norm");
    field("losses", losses, "of the last good steps");
    field("good_steps", good_steps, "steps that were taken");
    field("bad_in_a_row", bad_in_a_row, "steps skipped since the last good one");
    field("bad_steps", bad_steps, "steps skipped");
    field("loss_spikes", loss_spikes, "of these, for a loss far above the recent ones");
  }
};

/// Why a step must not be taken.
struct BadStep {
  std::string reason;       // empty: it may be taken
  bool loss_spike = false;  // it is finite, and far above the recent ones
};
BadStep judge_step(const GuardConfig& config, const GuardState& state, double loss, double grad_norm);

/// Notes what became of a step.
void note_good_step(GuardState& state, double loss, double grad_norm);
/// Returns whether the stage must stop now.
bool note_bad_step(const GuardConfig& config, GuardState& state, const BadStep& step);

}  // namespace pocketvlm
