#include "trainer/optimizer.h"

#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_svdvals.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tiny_stage.h"

namespace pocketvlm {
namespace {

OptimizerConfig scheduled(const std::string& schedule) {
  OptimizerConfig config;
  config.schedule = schedule;
  config.warmup_steps = 4;
  config.final_ratio = 0.1;
  return config;
}

TEST(Schedule, WarmUpRisesInEqualStepsToThePeak) {
  for (const char* name : {"cosine", "linear", "constant", "wsd"}) {
    const OptimizerConfig config = scheduled(name);
    EXPECT_DOUBLE_EQ(schedule_factor(config, 0, 25), 0.25) << name;
    EXPECT_DOUBLE_EQ(schedule_factor(config, 1, 25), 0.5) << name;
    EXPECT_DOUBLE_EQ(schedule_factor(config, 3, 25), 1.0) << name;
    EXPECT_DOUBLE_EQ(schedule_factor(config, 4, 25), 1.0) << name;
  }
}

TEST(Schedule, CosineIsHalfWayInTheMiddleAndEndsAtTheFinalRatio) {
  const OptimizerConfig config = scheduled("cosine");
  EXPECT_NEAR(schedule_factor(config, 14, 25), 0.55, 1e-12);
  EXPECT_NEAR(schedule_factor(config, 9, 25), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR(schedule_factor(config, 24, 25), 0.1, 1e-12);
}

TEST(Schedule, LinearFallsEvenlyAndConstantStays) {
  EXPECT_NEAR(schedule_factor(scheduled("linear"), 9, 25), 0.775, 1e-12);
  EXPECT_NEAR(schedule_factor(scheduled("linear"), 24, 25), 0.1, 1e-12);
  EXPECT_EQ(schedule_factor(scheduled("constant"), 24, 25), 1.0);
}

TEST(Schedule, WsdFallsOverTheLastFifth) {
  const OptimizerConfig config = scheduled("wsd");
  EXPECT_EQ(schedule_factor(config, 19, 25), 1.0);
  EXPECT_NEAR(schedule_factor(config, 20, 25), 0.82, 1e-12);
  EXPECT_NEAR(schedule_factor(config, 24, 25), 0.1, 1e-12);
}

TEST(Schedule, NeverLeavesItsRangeInVeryShortStages) {
  for (const char* name : {"cosine", "linear", "constant", "wsd"}) {
    for (int64_t total = 1; total < 9; ++total) {
      OptimizerConfig config = scheduled(name);
      config.warmup_steps = std::min<int64_t>(total, 4);
      for (int64_t step = 0; step < total; ++step) {
        const double factor = schedule_factor(config, step, total);
        EXPECT_GE(factor, 0.1) << name << " step " << step << " of " << total;
        EXPECT_LE(factor, 1.0) << name << " step " << step << " of " << total;
      }
    }
  }
}

/// AdamW as Loshchilov and Hutter write it (algorithm 2), one number after the other in double.
struct PlainAdamW {
  std::vector<double> value, first, second;
  explicit PlainAdamW(const torch::Tensor& start) {
    const torch::Tensor flat = start.flatten().to(torch::kFloat64);
    value.assign(flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel());
    first.assign(value.size(), 0);
    second.assign(value.size(), 0);
  }
  void step(const std::vector<double>& gradient,
            const OptimizerConfig& config,
            double rate,
            double decay,
            int64_t t) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      first[i] = config.beta1 * first[i] + (1 - config.beta1) * gradient[i];
      second[i] = config.beta2 * second[i] + (1 - config.beta2) * gradient[i] * gradient[i];
      const double m = first[i] / (1 - std::pow(config.beta1, static_cast<double>(t)));
      const double v = second[i] / (1 - std::pow(config.beta2, static_cast<double>(t)));
      value[i] -= rate * decay * value[i];
      value[i] -= rate * m / (std::sqrt(v) + config.eps);
    }
  }
};

/// A gradient that any run can make again.
torch::Tensor made_up_gradient(const torch::Tensor& parameter, int64_t step, int64_t which) {
  return torch::sin(torch::arange(parameter.numel(), torch::kFloat32) * 0.7 +
                    static_cast<double>(step * 3 + which))
      .view(parameter.sizes());
}

std::vector<std::pair<std::string, torch::Tensor>> made_up_parameters() {
  return {{"vision_encoder.weight", torch::linspace(-1, 1, 12).view({3, 4}).requires_grad_()},
          {"language.weight", torch::linspace(2, -2, 6).view({2, 3}).requires_grad_()},
          {"language.bias", torch::linspace(0, 1, 3).requires_grad_()},
          {"language.unused", torch::ones({2, 2}).requires_grad_()}};
}

OptimizerConfig made_up_config() {
  OptimizerConfig config;
  config.learning_rate = 0.02;
  config.learning_rate_factors = {{"*", 0.5}, {"language.*", 2.0}};
  config.warmup_steps = 3;
  config.weight_decay = 0.1;
  config.clip_norm = 0.4;
  return config;
}

void take_step(Optimizer& optimizer,
               const std::vector<std::pair<std::string, torch::Tensor>>& parameters,
               int64_t step) {
  for (int64_t i = 0; i < 3; ++i) {
    const torch::Tensor& parameter = parameters[static_cast<std::size_t>(i)].second;
    parameter.mutable_grad() = made_up_gradient(parameter, step, i);
  }
  optimizer.step(0.25);
}

TEST(Optimizer, EqualsAPlainLoopInDoubleOverTenSteps) {
  const OptimizerConfig config = made_up_config();
  const auto parameters = made_up_parameters();
  Optimizer optimizer(config, parameters, 10);
  std::vector<PlainAdamW> plain;
  for (const auto& [name, parameter] : parameters) plain.emplace_back(parameter.detach());
  const double factors[] = {0.5, 2.0, 2.0, 2.0};
  const double decays[] = {0.1, 0.1, 0.0, 0.1};

  for (int64_t step = 0; step < 10; ++step) {
    std::vector<std::vector<double>> gradients;
    double squares = 0;
    for (int64_t i = 0; i < 4; ++i) {
      const torch::Tensor& parameter = parameters[static_cast<std::size_t>(i)].second;
      const torch::Tensor gradient =
          (i < 3 ? made_up_gradient(parameter, step, i) : torch::zeros_like(parameter))
              .flatten()
              .to(torch::kFloat64) *
          0.25;
      gradients.emplace_back(gradient.data_ptr<double>(),
                             gradient.data_ptr<double>() + gradient.numel());
      for (const double g : gradients.back()) squares += g * g;
      if (i < 3) parameter.mutable_grad() = made_up_gradient(parameter, step, i);
    }
    const double norm = std::sqrt(squares);
    ASSERT_GT(norm, config.clip_norm);
    const double rate = config.learning_rate * schedule_factor(config, step, 10);
    EXPECT_DOUBLE_EQ(optimizer.learning_rate(), rate);
    EXPECT_NEAR(optimizer.step(0.25), norm, 1e-5);
    for (std::size_t i = 0; i < 4; ++i) {
      for (double& g : gradients[i]) g *= config.clip_norm / norm;
      plain[i].step(gradients[i], config, rate * factors[i], decays[i], step + 1);
      const torch::Tensor got = parameters[i].second.detach().flatten().to(torch::kFloat64);
      for (std::size_t j = 0; j < plain[i].value.size(); ++j) {
        EXPECT_NEAR(got.data_ptr<double>()[j], plain[i].value[j], 2e-6)
            << parameters[i].first << " " << j;
      }
      EXPECT_FALSE(parameters[i].second.grad().defined());
    }
  }
  EXPECT_EQ(optimizer.steps_done(), 10);
}

TEST(Optimizer, ContinuesFromItsSavedStateWithTheSameBits) {
  const auto parameters = made_up_parameters();
  Optimizer optimizer(made_up_config(), parameters, 10);
  for (int64_t step = 0; step < 5; ++step) take_step(optimizer, parameters, step);

  std::vector<std::pair<std::string, torch::Tensor>> copies, state;
  for (const auto& [name, parameter] : parameters)
    copies.emplace_back(name, parameter.detach().clone().requires_grad_());
  for (const auto& [name, moment] : optimizer.state()) state.emplace_back(name, moment.clone());
  EXPECT_EQ(state.size(), 8U);
  Optimizer continued(made_up_config(), copies, 10);
  continued.restore(state, 5);
  for (int64_t step = 5; step < 10; ++step) {
    take_step(optimizer, parameters, step);
    take_step(continued, copies, step);
  }
  for (std::size_t i = 0; i < copies.size(); ++i) {
    EXPECT_TRUE(test::same_bits(copies[i].second, parameters[i].second)) << copies[i].first;
  }
}

TEST(Optimizer, RefusesAStateOfOtherParameters) {
  Optimizer optimizer(made_up_config(), made_up_parameters(), 10);
  auto state = optimizer.state();
  state.pop_back();
  EXPECT_NE(test::error_of([&] { optimizer.restore(state, 1); }).find("is missing"),
            std::string::npos);
  state = optimizer.state();
  state.emplace_back("stranger.exp_avg", torch::zeros({1}));
  EXPECT_NE(test::error_of([&] { optimizer.restore(state, 1); }).find("unexpected tensor stranger"),
            std::string::npos);
}

TEST(Optimizer, TouchesNothingWhenTheGradientIsNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const auto parameters = made_up_parameters();
    Optimizer optimizer(made_up_config(), parameters, 10);
    take_step(optimizer, parameters, 0);
    std::vector<torch::Tensor> before;
    for (const auto& [name, parameter] : parameters) {
      before.push_back(parameter.detach().clone());
      parameter.mutable_grad() = torch::ones_like(parameter);
    }
    parameters[1].second.mutable_grad()[0][0] = bad;
    EXPECT_NE(test::error_of([&] { optimizer.step(1.0); }).find("nothing was updated"),
              std::string::npos);
    for (std::size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(test::same_bits(before[i], parameters[i].second));
    EXPECT_EQ(optimizer.steps_done(), 1);
  }
}

TEST(Optimizer, NamesALearningRatePatternThatMatchesNothing) {
  OptimizerConfig config = made_up_config();
  config.learning_rate_factors["projector.*"] = 2.0;
  EXPECT_NE(test::error_of([&] {
              Optimizer(config, made_up_parameters(), 10);
            }).find("\"projector.*\" matches no"),
            std::string::npos);
}

/// U V^T of x = U S V^T, [rows, columns] in double.
torch::Tensor polar_factor(const torch::Tensor& x) {
  const auto [u, s, vh] = at::linalg_svd(x.to(torch::kFloat64), /*full_matrices=*/false);
  return torch::matmul(u, vh);
}

TEST(Orthogonalized, KeepsTheSingularVectorsAndEvensTheSingularValues) {
  torch::manual_seed(3);
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{24, 24}, {12, 40}, {40, 12}}) {
    const torch::Tensor x = torch::randn({3, rows, columns}) * 0.01;
    const torch::Tensor y = orthogonalized(x);
    ASSERT_EQ(y.sizes(), x.sizes());
    ASSERT_EQ(y.scalar_type(), torch::kFloat32);
    for (int64_t i = 0; i < 3; ++i) {
      const torch::Tensor values = at::linalg_svdvals(y[i]);
      const torch::Tensor before = at::linalg_svdvals(x[i]);
      // Random square matrices have singular values near zero, which five steps cannot lift.
      const torch::Tensor lifted = values.masked_select(before > 0.1 * before.max());
      EXPECT_GT(lifted.min().item<float>(), 0.6F) << rows << " x " << columns;
      EXPECT_LT(values.max().item<float>(), 1.3F) << rows << " x " << columns;
      const torch::Tensor turned = torch::matmul(y[i].to(torch::kFloat64), polar_factor(x[i]).t());
      EXPECT_GT(turned.trace().item<double>() / static_cast<double>(std::min(rows, columns)), 0.7);
    }
  }
}

OptimizerConfig orthogonalizing_config() {
  OptimizerConfig config;
  config.learning_rate = 0.01;
  config.schedule = "constant";
  config.warmup_steps = 0;
  config.weight_decay = 0.1;
  config.clip_norm = 0;
  config.orthogonalized = {"*.weight"};
  return config;
}

TEST(Optimizer, UpdatesMatricesByTheirOrthogonalizedNesterovMomentum) {
  torch::manual_seed(4);
  const torch::Tensor start = torch::randn({6, 10}), first = torch::randn({6, 10}), second = torch::randn({6, 10});
  torch::Tensor weight = start.clone().requires_grad_(), vector = torch::ones({6}).requires_grad_();
  Optimizer optimizer(orthogonalizing_config(), {{"a.weight", weight}, {"b.weight", vector}}, 10);
  EXPECT_EQ(optimizer.state().size(), 3U);  // the matrix has no second moment

  torch::Tensor expected = start, momentum = torch::zeros({6, 10});
  for (const torch::Tensor& gradient : {first, second}) {
    weight.mutable_grad() = gradient.clone();
    vector.mutable_grad() = torch::full({6}, 2.0);
    optimizer.step(1.0);
    momentum = 0.9 * momentum + 0.1 * gradient;
    const torch::Tensor update = orthogonalized((0.1 * gradient + 0.9 * momentum).unsqueeze(0))[0];
    expected = expected * (1 - 0.01 * 0.1) - 0.01 * 0.2 * std::sqrt(10.0) * update;
  }
  EXPECT_LT((weight.detach() - expected).abs().max().item<float>(), 1e-4F);
  EXPECT_GT((weight.detach() - start).abs().max().item<float>(), 1e-3F);
  EXPECT_NEAR(vector.detach()[0].item<float>(), 1.0F - 2 * 0.01F, 1e-5F);  // AdamW: no decay of vectors
}

TEST(Optimizer, ContinuesOrthogonalizedUpdatesWithTheSameBits) {
  torch::manual_seed(5);
  const torch::Tensor start = torch::randn({8, 8});
  const auto run = [&](int64_t stop) {
    std::vector<std::pair<std::string, torch::Tensor>> parameters = {{"a.weight", start.clone().requires_grad_()}};
    auto optimizer = std::make_unique<Optimizer>(orthogonalizing_config(), parameters, 10);
    for (int64_t step = 0; step < 6; ++step) {
      if (step == stop) {
        std::vector<std::pair<std::string, torch::Tensor>> state;
        for (const auto& [name, moment] : optimizer->state()) state.emplace_back(name, moment.clone());
        optimizer = std::make_unique<Optimizer>(orthogonalizing_config(), parameters, 10);
        optimizer->restore(state, step);
      }
      parameters[0].second.mutable_grad() = torch::sin(parameters[0].second.detach() * static_cast<double>(step + 1));
      optimizer->step(1.0);
    }
    return parameters[0].second;
  };
  EXPECT_TRUE(test::same_bits(run(-1), run(3)));
}

TEST(Optimizer, NamesAPatternOfMatricesThatMatchesNone) {
  OptimizerConfig config = orthogonalizing_config();
  config.orthogonalized = {"a.*", "norm.*"};
  const torch::Tensor weight = torch::ones({4, 4}).requires_grad_(), norm = torch::ones({4}).requires_grad_();
  EXPECT_NE(test::error_of([&] {
              Optimizer(config, {{"a.weight", weight}, {"norm.weight", norm}}, 10);
            }).find("\"norm.*\" matches no trainable matrix"),
            std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
