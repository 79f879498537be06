#include "trainer/step_guard.h"

#include <gtest/gtest.h>

#include <limits>

namespace pocketvlm {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(StepGuard, RefusesWhatIsNotFinite) {
  const GuardConfig config;
  EXPECT_EQ(reason_to_skip(config, {}, 1.0, 1.0), "");
  EXPECT_EQ(reason_to_skip(config, {}, -kNan, 1.0), "the loss is nan");
  EXPECT_EQ(reason_to_skip(config, {}, 1.0, std::numeric_limits<double>::infinity()), "the gradient norm is inf");
}

TEST(StepGuard, KnowsASpikeWhenItHasSeenEnough) {
  GuardConfig config;
  config.spike_factor = 5;
  GuardState state;
  for (int i = 0; i < 19; ++i) note_good_step(state, 2.0);
  EXPECT_EQ(reason_to_skip(config, state, 1.0, 100.0), "") << "too early to judge";
  note_good_step(state, 2.0);
  EXPECT_NEAR(state.mean_norm, 2.0, 1e-12);
  EXPECT_EQ(reason_to_skip(config, state, 1.0, 9.9), "");
  EXPECT_EQ(reason_to_skip(config, state, 1.0, 10.1), "the gradient norm 10.1 exceeds 5 times its recent mean 2");
  config.spike_factor = 0;
  EXPECT_EQ(reason_to_skip(config, state, 1.0, 1e9), "");
}

TEST(StepGuard, StopsAfterTooManyInARow) {
  GuardConfig config;
  config.max_bad_steps = 2;
  GuardState state;
  EXPECT_FALSE(note_bad_step(config, state));
  EXPECT_FALSE(note_bad_step(config, state));
  note_good_step(state, 1.0);
  EXPECT_FALSE(note_bad_step(config, state));
  EXPECT_FALSE(note_bad_step(config, state));
  EXPECT_TRUE(note_bad_step(config, state));
  EXPECT_EQ(state.bad_steps, 5);
}

}  // namespace
}  // namespace pocketvlm
