#include "rlaif/preference_loss.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>

namespace pocketvlm {
namespace {

struct Case {
  double policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_tokens,
      rejected_tokens;
};
const std::vector<Case> kCases = {
    {-10, -12, -11, -11.5, 8, 10}, {-30, -20, -25, -24, 12, 9}, {-5, -5, -5, -5, 3, 3}};

torch::Tensor column(double Case::*field, bool learns = false) {
  std::vector<float> values;
  for (const Case& c : kCases) values.push_back(static_cast<float>(c.*field));
  return torch::tensor(values, torch::kFloat32).requires_grad_(learns);
}

PairLogProbs pairs_of_cases() {
  return {column(&Case::policy_chosen, true),
          column(&Case::policy_rejected, true),
          column(&Case::reference_chosen),
          column(&Case::reference_rejected),
          column(&Case::chosen_tokens),
          column(&Case::rejected_tokens)};
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Value and derivative by the chosen answer's log-prob, written out by hand.
std::pair<double, double> by_hand(const Case& c, const PreferenceConfig& config) {
  const double chosen = c.policy_chosen - c.reference_chosen;
  const double rejected = c.policy_rejected - c.reference_rejected;
  const double beta = config.beta;
  const double nll = -c.policy_chosen / c.chosen_tokens * config.sft_weight;
  const double nll_slope = -config.sft_weight / c.chosen_tokens;
  if (config.loss == "sigmoid") {
    return {-std::log(sigmoid(beta * (chosen - rejected))) + nll,
            -beta * sigmoid(-beta * (chosen - rejected)) + nll_slope};
  }
  if (config.loss == "hinge") {
    const double slack = 1 - beta * (chosen - rejected);
    return {std::max(0.0, slack) + nll, (slack > 0 ? -beta : 0) + nll_slope};
  }
  const double gap = chosen / c.chosen_tokens - rejected / c.rejected_tokens - 1 / (2 * beta);
  return {gap * gap + nll, 2 * gap / c.chosen_tokens + nll_slope};
}

class Loss : public testing::TestWithParam<std::tuple<const char*, double, double>> {};

TEST_P(Loss, AndItsGradientAreThoseOfTheFormula) {
  PreferenceConfig config;
  std::tie(config.loss, config.beta, config.sft_weight) = GetParam();
  const PairLogProbs pairs = pairs_of_cases();
  const torch::Tensor losses = preference_losses(pairs, config);
  losses.sum().backward();
  for (std::size_t i = 0; i < kCases.size(); ++i) {
    const auto [value, slope] = by_hand(kCases[i], config);
    const auto index = static_cast<int64_t>(i);
    EXPECT_NEAR(losses[index].item<double>(), value, 1e-5 * std::max(1.0, std::abs(value)));
    EXPECT_NEAR(pairs.policy_chosen.grad()[index].item<double>(), slope, 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         Loss,
                         testing::Values(std::tuple{"sigmoid", 0.1, 0.0},
                                         std::tuple{"sigmoid", 0.5, 1.0},
                                         std::tuple{"ipo", 0.1, 0.0},
                                         std::tuple{"ipo", 2.0, 0.5},
                                         std::tuple{"hinge", 0.1, 0.0},
                                         std::tuple{"hinge", 1.0, 0.2}));

TEST(PreferenceLoss, OfEqualModelsIsLogTwo) {
  PairLogProbs pairs = pairs_of_cases();
  pairs.policy_chosen = pairs.reference_chosen;
  pairs.policy_rejected = pairs.reference_rejected;
  const torch::Tensor losses = preference_losses(pairs, PreferenceConfig{});
  for (int64_t i = 0; i < losses.size(0); ++i)
    EXPECT_FLOAT_EQ(losses[i].item<float>(), std::log(2.0F));
}

TEST(Metrics, AreSumsNamedAsInTrl) {
  PreferenceConfig config;
  config.beta = 0.5;
  const PairLogProbs pairs = pairs_of_cases();
  const auto sums = preference_metric_sums(pairs, preference_losses(pairs, config), config);
  EXPECT_NEAR(sums.at("rewards/chosen"), 0.5 * (1 - 5 + 0), 1e-6);
  EXPECT_NEAR(sums.at("rewards/rejected"), 0.5 * (-0.5 + 4 + 0), 1e-6);
  EXPECT_NEAR(sums.at("rewards/margins"), 0.5 * (1.5 - 9), 1e-6);
  EXPECT_EQ(sums.at("rewards/accuracies"), 1);  // equality is no win
  EXPECT_EQ(sums.at("logps/chosen"), -45);
  EXPECT_EQ(sums.at("logps/rejected"), -37);
  EXPECT_EQ(sums.at("tokens/chosen"), 23);
  EXPECT_NEAR(sums.at("nll_loss"), 10. / 8 + 30. / 12 + 5. / 3, 1e-6);
}

TEST(PreferenceLoss, ExplainsABetaThatCannotWork) {
  PreferenceConfig config;
  config.loss = "ipo";
  config.beta = 0;
  EXPECT_THROW(preference_losses(pairs_of_cases(), config), Error);
}

}  // namespace
}  // namespace pocketvlm
