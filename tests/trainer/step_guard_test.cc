#include "trainer/step_guard.h"

#include <gtest/gtest.h>

#include <limits>

namespace pocketvlm {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::string reason(const GuardConfig& config, const GuardState& state, double loss, double grad_norm) {
  return judge_step(config, state, loss, grad_norm).reason;
}

TEST(StepGuard, RefusesWhatIsNotFinite) {
  const GuardConfig config;
  EXPECT_EQ(reason(config, {}, 1.0, 1.0), "");
  EXPECT_EQ(reason(config, {}, -kNan, 1.0), "the loss is nan");
  EXPECT_EQ(reason(config, {}, 1.0, std::numeric_limits<double>::infinity()), "the gradient norm is inf");
}

TEST(StepGuard, KnowsASpikeWhenItHasSeenEnough) {
  GuardConfig config;
  config.spike_factor = 5;
  GuardState state;
  for (int i = 0; i < 19; ++i) note_good_step(state, 1.0, 2.0);
  EXPECT_EQ(reason(config, state, 1.0, 100.0), "") << "too early to judge";
  note_good_step(state, 1.0, 2.0);
  EXPECT_NEAR(state.mean_norm, 2.0, 1e-12);
  EXPECT_EQ(reason(config, state, 1.0, 9.9), "");
  EXPECT_EQ(reason(config, state, 1.0, 10.1), "the gradient norm 10.1 exceeds 5 times its recent mean 2");
  EXPECT_FALSE(judge_step(config, state, 1.0, 10.1).loss_spike);
  EXPECT_EQ(reason(config, state, 1e9, 1.0), "") << "losses are not judged";
  config.spike_factor = 0;
  EXPECT_EQ(reason(config, state, 1.0, 1e9), "");
}

TEST(StepGuard, JudgesALossByTheMedianOfRecentOnes) {
  GuardConfig config;
  config.loss_spike_factor = 3;
  GuardState state;
  for (int i = 0; i < 19; ++i) note_good_step(state, 100.0, 1.0);
  EXPECT_EQ(reason(config, state, 1000.0, 1.0), "") << "too early to judge";
  for (int i = 0; i < 51; ++i) note_good_step(state, i % 10 == 0 ? 50.0 : 2.0, 1.0);
  ASSERT_EQ(state.losses.size(), 51U) << "the steep beginning is forgotten";
  EXPECT_EQ(reason(config, state, 6.0, 1e9), "") << "single high losses do not move a median";
  const BadStep bad = judge_step(config, state, 6.1, 1.0);
  EXPECT_EQ(bad.reason, "the loss 6.1 exceeds 3 times its recent median 2");
  EXPECT_TRUE(bad.loss_spike);
  config.max_bad_steps = 1;
  EXPECT_FALSE(note_bad_step(config, state, bad));
  EXPECT_TRUE(note_bad_step(config, state, bad));
  EXPECT_EQ(state.loss_spikes, 2);
  EXPECT_EQ(state.bad_steps, 2);
  EXPECT_EQ(state.losses.size(), 51U) << "a refused loss is no example of a usual one";
}

TEST(StepGuard, JudgesTheSameAfterItWasSavedAndRead) {
  GuardConfig config;
  config.loss_spike_factor = 2;
  GuardState state;
  for (int i = 1; i <= 40; ++i) note_good_step(state, 1.0 / i, 0.1 * i);
  const GuardState read = read_config<GuardState>(parse_json(config_to_json(state).dump(), "state"), "state");
  EXPECT_EQ(read.losses, state.losses);
  for (const double loss : {0.09, 0.1, 0.12, 1.0}) EXPECT_EQ(reason(config, read, loss, 1.0), reason(config, state, loss, 1.0));
}

TEST(StepGuard, StopsAfterTooManyInARow) {
  GuardConfig config;
  config.max_bad_steps = 2;
  GuardState state;
  const BadStep bad = {"the loss is nan"};
  EXPECT_FALSE(note_bad_step(config, state, bad));
  EXPECT_FALSE(note_bad_step(config, state, bad));
  note_good_step(state, 1.0, 1.0);
  EXPECT_FALSE(note_bad_step(config, state, bad));
  EXPECT_FALSE(note_bad_step(config, state, bad));
  EXPECT_TRUE(note_bad_step(config, state, bad));
  EXPECT_EQ(state.bad_steps, 5);
  EXPECT_EQ(state.loss_spikes, 0);
}

}  // namespace
}  // namespace pocketvlm
