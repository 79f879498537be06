#include "rlaif/preference_loss.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>

#include "base/json.h"

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

// Values, metrics and gradients of TRL's own trainers (tests/golden/make_preference.py).
class Trl : public testing::Test {
 protected:
  using Rows = std::vector<std::vector<double>>;

  struct Answers {
    std::vector<torch::Tensor> tokens;  // log-probs of each answer
    torch::Tensor sums(double tail_weight, const std::vector<torch::Tensor>& others) const {
      std::vector<torch::Tensor> sums;
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        torch::Tensor weights = torch::ones_like(tokens[i]);
        const int64_t shared = std::min(tokens[i].size(0), others[i].size(0));
        weights.slice(0, shared).fill_(tail_weight);
        sums.push_back((tokens[i] * weights).sum());
      }
      return torch::stack(sums);
    }
    torch::Tensor counts() const {
      std::vector<float> counts;
      for (const torch::Tensor& row : tokens) counts.push_back(static_cast<float>(row.size(0)));
      return torch::tensor(counts);
    }
  };

  static const Json& golden() {
    static const Json json = read_json(std::string(TEST_DATA) + "/rlaif/golden/preference.json");
    return json;
  }

  static Answers answers(const char* table, const char* which, bool learns) {
    Answers result;
    for (const auto& row : golden().at("log_probs").at(table).at(which).get<Rows>()) {
      result.tokens.push_back(
          torch::tensor(row, torch::kFloat64).to(torch::kFloat32).requires_grad_(learns));
    }
    return result;
  }

  // What the trainer would hand to the loss.
  static PairLogProbs log_probs(const Answers& chosen,
                                const Answers& rejected,
                                const PreferenceConfig& config) {
    const Answers reference_chosen = answers("reference", "chosen", false);
    const Answers reference_rejected = answers("reference", "rejected", false);
    const double tail = config.length_tail_weight;
    PairLogProbs pairs;
    pairs.policy_chosen = chosen.sums(tail, rejected.tokens);
    pairs.policy_rejected = rejected.sums(tail, chosen.tokens);
    pairs.reference_chosen = reference_chosen.sums(tail, rejected.tokens);
    pairs.reference_rejected = reference_rejected.sums(tail, chosen.tokens);
    pairs.chosen_tokens = chosen.counts();
    pairs.rejected_tokens = rejected.counts();
    pairs.plain_chosen = chosen.sums(1.0, rejected.tokens);
    double ratios = 0;
    double count = 0;
    for (const char* which : {"chosen", "rejected"}) {
      const Rows policy = golden().at("log_probs").at("kl_policy").at(which).get<Rows>();
      const Rows reference = golden().at("log_probs").at("kl_reference").at(which).get<Rows>();
      for (std::size_t i = 0; i < policy.size(); ++i, ++count) {
        for (std::size_t j = 0; j < policy[i].size(); ++j) ratios += policy[i][j] - reference[i][j];
      }
    }
    pairs.kl = std::max(0.0, ratios / count);
    return pairs;
  }
};

TEST_F(Trl, SaysTheSameOfEveryLoss) {
  const double tolerance = 2e-6;
  EXPECT_EQ(golden().at("cases").size(), 11u);
  for (const Json& expected : golden().at("cases")) {
    SCOPED_TRACE(expected.at("name").get<std::string>());
    const auto config = read_config<PreferenceConfig>(expected.at("config"), "golden");
    const Answers chosen = answers("policy", "chosen", true);
    const Answers rejected = answers("policy", "rejected", true);
    const PairLogProbs pairs = log_probs(chosen, rejected, config);
    const torch::Tensor losses = preference_losses(pairs, config);
    losses.mean().backward();
    EXPECT_NEAR(losses.mean().item<double>(), expected.at("loss").get<double>(), tolerance);
    auto sums = preference_metric_sums(pairs, losses, config);
    sums["kl"] = pairs.kl * static_cast<double>(losses.size(0));
    for (const auto& metric : expected.at("metrics").items()) {
      EXPECT_NEAR(sums.at(metric.key()) / static_cast<double>(losses.size(0)),
                  metric.value().get<double>(),
                  tolerance)
          << metric.key();
    }
    for (const auto& [which, own] : {std::pair{"chosen", &chosen}, std::pair{"rejected", &rejected}}) {
      const Rows slopes = expected.at("slopes").at(which).get<Rows>();
      for (std::size_t i = 0; i < slopes.size(); ++i) {
        const torch::Tensor slope = torch::tensor(slopes[i], torch::kFloat64).to(torch::kFloat32);
        EXPECT_LT((own->tokens[i].grad() - slope).abs().max().item<double>(), tolerance) << which;
      }
    }
  }
}

// TRL's KTO takes single answers: in the golden batch four that are desirable and four that are not.
TEST_F(Trl, SaysTheSameOfSingleAnswers) {
  const double tolerance = 2e-6;
  const Json& cases = golden().at("cases");
  const auto expected = std::find_if(cases.begin(), cases.end(), [](const Json& one) { return one.at("name") == "kto"; });
  ASSERT_NE(expected, cases.end());
  const auto config = read_config<PreferenceConfig>(expected->at("config"), "golden");
  const Answers chosen = answers("policy", "chosen", true), rejected = answers("policy", "rejected", true);
  const PairLogProbs pairs = log_probs(chosen, rejected, config);
  const torch::Tensor blank = torch::zeros_like(pairs.reference_chosen);
  PairLogProbs singles;
  singles.kl = pairs.kl;
  singles.policy_chosen = torch::cat({pairs.policy_chosen, blank});
  singles.policy_rejected = torch::cat({blank, pairs.policy_rejected});
  singles.reference_chosen = torch::cat({pairs.reference_chosen, blank});
  singles.reference_rejected = torch::cat({blank, pairs.reference_rejected});
  singles.chosen_tokens = torch::cat({pairs.chosen_tokens, blank});
  singles.rejected_tokens = torch::cat({blank, pairs.rejected_tokens});
  singles.desirable = singles.chosen_tokens > 0;
  const torch::Tensor losses = preference_losses(singles, config);
  losses.mean().backward();
  EXPECT_NEAR(losses.mean().item<double>(), expected->at("loss").get<double>(), tolerance);
  const auto sums = preference_metric_sums(singles, losses, config);
  for (const auto& [which, own] : {std::pair{"chosen", &chosen}, std::pair{"rejected", &rejected}}) {
    for (const std::string name : {"rewards/", "logps/"}) {
      EXPECT_NEAR(sums.at(name + which) / sums.at(std::string("count/") + which),
                  expected->at("metrics").at(name + which).get<double>(),
                  tolerance)
          << name << which;
    }
    const Rows slopes = expected->at("slopes").at(which).get<Rows>();
    for (std::size_t i = 0; i < slopes.size(); ++i) {
      const torch::Tensor slope = torch::tensor(slopes[i], torch::kFloat64).to(torch::kFloat32);
      EXPECT_LT((own->tokens[i].grad() - slope).abs().max().item<double>(), tolerance) << which;
    }
  }
}

TEST_F(Trl, IsToldApartFromALossThatIsSlightlyOff) {
  auto config = read_config<PreferenceConfig>(golden().at("cases").at(0).at("config"), "golden");
  config.beta *= 1.001;
  const PairLogProbs pairs =
      log_probs(answers("policy", "chosen", true), answers("policy", "rejected", true), config);
  EXPECT_GT(std::abs(preference_losses(pairs, config).mean().item<double>() -
                     golden().at("cases").at(0).at("loss").get<double>()),
            1e-5);
}

TEST(PreferenceLoss, HasTheOnesThatTrlDropped) {
  PreferenceConfig config;
  config.beta = 0.3;
  config.label_smoothing = 0.2;
  const PairLogProbs pairs = pairs_of_cases();
  config.loss = "cdpo";
  const torch::Tensor cdpo = preference_losses(pairs, config);
  config.loss = "ipo_sum";
  const torch::Tensor ipo = preference_losses(pairs, config);
  for (std::size_t i = 0; i < kCases.size(); ++i) {
    const Case& c = kCases[i];
    const double margin = (c.policy_chosen - c.reference_chosen) - (c.policy_rejected - c.reference_rejected);
    const auto index = static_cast<int64_t>(i);
    EXPECT_NEAR(cdpo[index].item<double>(),
                -0.8 * std::log(sigmoid(0.3 * margin)) - 0.2 * std::log(sigmoid(-0.3 * margin)),
                1e-5);
    EXPECT_NEAR(ipo[index].item<double>(), std::pow(margin - 1 / 0.6, 2), 1e-4);
  }
}

// A step divided into packs must give the mean over all its tokens.
TEST(PreferenceLoss, TakesTheTokenMeanOverTheWholeStep) {
  PreferenceConfig config;
  config.loss = "mix";
  config.mix = {{"sft", 1.0}};
  PairLogProbs whole = pairs_of_cases();
  const double mean = preference_losses(whole, config).mean().item<double>();
  EXPECT_NEAR(mean, 45.0 / 23, 1e-5);
  double sum = 0;
  for (int64_t i = 0; i < 3; ++i) {
    PairLogProbs part = whole;
    for (torch::Tensor* of : {&part.policy_chosen, &part.policy_rejected, &part.reference_chosen,
                              &part.reference_rejected, &part.chosen_tokens, &part.rejected_tokens})
      *of = of->slice(0, i, i + 1);
    part.step_tokens = 23;
    part.step_pairs = 3;
    sum += preference_losses(part, config).sum().item<double>();
  }
  EXPECT_NEAR(sum / 3, mean, 1e-6);
}

TEST(PreferenceConfig, RefusesSettingsThatCannotTakeEffect) {
  const auto error_of = [](const char* json) {
    try {
      read_config<PreferenceConfig>(parse_json(json, "test"), "loop.preference");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(error_of(R"({"loss": "mix"})").find("loop.preference.mix: goes together"), std::string::npos);
  EXPECT_NE(error_of(R"({"mix": {"sigmoid": 1}})").find("goes together with loss"), std::string::npos);
  EXPECT_NE(error_of(R"({"loss": "mix", "mix": {"sigmod": 1}})").find("did you mean \"sigmoid\""),
            std::string::npos);
  EXPECT_NE(error_of(R"({"loss": "mix", "mix": {"sigmoid": -1}})").find("negative"), std::string::npos);
  EXPECT_NE(error_of(R"({"label_smoothing": 0.1})").find("cdpo and robust"), std::string::npos);
  EXPECT_NE(error_of(R"({"loss": "ipo", "mean_over_tokens": true})").find("by itself"), std::string::npos);
  EXPECT_EQ(error_of(R"({"loss": "mix", "mix": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1}})"), "");
}

TEST(PreferenceLoss, ExplainsABetaThatCannotWork) {
  PreferenceConfig config;
  config.loss = "ipo";
  config.beta = 0;
  EXPECT_THROW(preference_losses(pairs_of_cases(), config), Error);
}

}  // namespace
}  // namespace pocketvlm
