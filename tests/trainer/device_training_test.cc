#include <ATen/Context.h>

#include <cmath>
#include <map>

#include "tests/model/model_testing.h"
#include "tests/model/on_device.h"
#include "trainer/bench_device.h"
#include "trainer/optimizer.h"
#include "trainer/peak_speed.h"

/// The optimizer against AdamW in float64, and whole models against the CPU in float32, wherever they can run.
namespace pocketvlm {
namespace {

using torch::Tensor;

class DeviceTraining : public OnDevice {};

/// Sizes around a warp, a block and nothing at all, and more tensors than one launch takes.
std::vector<std::vector<int64_t>> made_up_shapes() {
  std::vector<std::vector<int64_t>> shapes = {{1}, {33}, {257}, {3, 5}, {64, 65}, {600, 500}};
  for (int64_t i = 0; i < 60; ++i) shapes.push_back({2, i + 1});
  return shapes;
}

/// Algorithm 2 of Loshchilov and Hutter in float64, with gradients as they come out of scaling and clipping.
struct PlainAdamw {
  Tensor weight, exp_avg, exp_avg_sq;
  explicit PlainAdamw(const Tensor& start)
      : weight(start.detach().cpu().to(torch::kFloat64).clone()), exp_avg(torch::zeros_like(weight)), exp_avg_sq(torch::zeros_like(weight)) {}
  void step(const Tensor& grad, const OptimizerConfig& config, double rate, double decay, int64_t step) {
    exp_avg.mul_(config.beta1).add_(grad, 1 - config.beta1);
    exp_avg_sq.mul_(config.beta2).addcmul_(grad, grad, 1 - config.beta2);
    const Tensor mean = exp_avg / (1 - std::pow(config.beta1, static_cast<double>(step)));
    const Tensor square = exp_avg_sq / (1 - std::pow(config.beta2, static_cast<double>(step)));
    weight.mul_(1 - rate * decay).sub_(rate * mean / (square.sqrt() + config.eps));
  }
};

TEST_P(DeviceTraining, AdamwEqualsPlainStepsInFloat64) {
  OptimizerConfig config;
  config.learning_rate = 0.02;
  config.schedule = "constant";
  config.warmup_steps = 0;
  config.weight_decay = 0.1;
  config.clip_norm = 0.4;
  const double scale = 0.25;
  std::vector<std::pair<std::string, Tensor>> parameters;
  std::vector<PlainAdamw> plain;
  for (const auto& shape : made_up_shapes()) {
    parameters.emplace_back(fmt::format("p{}", parameters.size()), leaf(torch::randn(shape), parameters.size() % 2 == 1));
    plain.emplace_back(parameters.back().second);
  }
  Optimizer optimizer(config, parameters, 10);
  for (int64_t step = 1; step <= 5; ++step) {
    std::vector<Tensor> gradients;
    double square = 0;
    for (const auto& [name, parameter] : parameters) {
      gradients.push_back(torch::randn(parameter.sizes()));
      // LibTorch's AdamW of the CPU takes gradients as autograd lays them out alone.
      if (step == 2 && device().is_cuda() && parameter.dim() == 2) gradients.back() = gradients.back().t().contiguous().t();
      square += gradients.back().to(torch::kFloat64).square().sum().item<double>();
      parameter.mutable_grad() = moved(gradients.back()).clone();  // the optimizer scales it in place
    }
    const double norm = std::sqrt(square) * scale;
    EXPECT_NEAR(optimizer.step(scale), norm, 1e-5 * norm);
    ASSERT_GT(norm, config.clip_norm);
    for (std::size_t i = 0; i < plain.size(); ++i) {
      const Tensor grad = gradients[i].to(torch::kFloat64) * (scale * config.clip_norm / norm);
      plain[i].step(grad, config, config.learning_rate, parameters[i].second.dim() == 2 ? config.weight_decay : 0.0, step);
      EXPECT_LT(relative_difference(parameters[i].second.cpu(), plain[i].weight), 2e-6) << parameters[i].first << " step " << step;
      EXPECT_FALSE(parameters[i].second.grad().defined());
    }
  }
  for (const auto& [name, moment] : optimizer.state()) {
    const std::size_t i = std::stoul(name.substr(1));
    EXPECT_LT(relative_difference(moment.cpu(), name.ends_with("_sq") ? plain[i].exp_avg_sq : plain[i].exp_avg), 2e-5) << name;
  }
}

TEST_P(DeviceTraining, MuonStepsAreThoseOfTheCpu) {
  OptimizerConfig config;
  config.schedule = "constant";
  config.warmup_steps = 0;
  config.orthogonalized = {"*"};
  const Tensor start = torch::randn({24, 40}), gradient = torch::randn({24, 40});
  const auto result = [&](const Tensor& parameter) {
    Optimizer optimizer(config, {{"matrix", parameter}}, 10);
    for (int i = 0; i < 3; ++i) {
      parameter.mutable_grad() = gradient.to(parameter.device());
      optimizer.step(1.0);
    }
    return parameter.detach().cpu() - start;
  };
  EXPECT_LT(relative_difference(result(leaf(start)), result(start.clone().set_requires_grad(true))), 0.05);  // bfloat16 products
}

/// A few samples with and without pictures.
PackedBatch mixed_pack(const ModelConfig& config) {
  Random random({11});
  const std::array<int, 2> grid = {6, 6}, other = config.vision.positions == "fixed" ? grid : std::array<int, 2>{3, 5};
  return pack({as_sample(random_chat(config, random, 17, {grid, other, other}), 1.0F),
               as_sample(random_chat(config, random, 9, {}), 0.5F),
               as_sample(random_chat(config, random, 33, {grid}), 1.25F)});
}

struct Outcome {
  double loss;
  std::map<std::string, Tensor> gradients;  // on the CPU
};

VisionLanguageModel scattered_model(const ModelConfig& config) {
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  return model;
}

Outcome loss_and_gradients(VisionLanguageModel& model, torch::Device device, torch::Dtype dtype) {
  const ComputeDtype guard(dtype);
  model->zero_grad();
  const Tensor loss = model->loss_sum(to_batch(mixed_pack(model->config()), device));
  loss.backward();
  Outcome outcome = {loss.item<double>(), {}};
  for (const auto& item : model->named_parameters()) outcome.gradients[item.key()] = item.value().grad().cpu().clone();
  return outcome;
}

/// ||a - b|| / ||b||
double distance(const Tensor& a, const Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); }

double loss_bound(torch::Dtype dtype) { return dtype == torch::kFloat32 ? 1e-5 : 2e-2; }

std::vector<ModelConfig> tiny_configs() {
  ModelConfig interpolated = tiny_config();
  interpolated.vision.positions = "interpolated";
  return {tiny_config(), tiny_clip_config(), interpolated};
}

TEST_P(DeviceTraining, LossAndEveryGradientAreThoseOfTheCpu) {
  at::globalContext().setAllowTF32CuDNN(false);
  for (const ModelConfig& config : tiny_configs()) {
    VisionLanguageModel reference = scattered_model(config), model = scattered_model(config);
    model->to(device());
    const Outcome expected = loss_and_gradients(reference, torch::kCPU, torch::kFloat32);
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      SCOPED_TRACE(config.family + " " + c10::toString(dtype));
      const Outcome actual = loss_and_gradients(model, device(), dtype);
      EXPECT_NEAR(actual.loss / expected.loss, 1.0, loss_bound(dtype));
      ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
      for (const auto& [name, gradient] : expected.gradients) {
        if (name.ends_with("k_proj.bias") && !name.starts_with("language.")) continue;  // mathematically zero
        EXPECT_LT(distance(actual.gradients.at(name), gradient), dtype == torch::kFloat32 ? 1e-4 : 0.15) << name;
      }
    }
    const torch::NoGradGuard no_grad;
    model->named_parameters()["language.layers.0.mlp.up_proj.weight"].mul_(1.2);
    const double other = model->loss_sum(to_batch(mixed_pack(config), device())).item<double>();
    EXPECT_GT(std::abs(other / expected.loss - 1.0), loss_bound(torch::kFloat32)) << "the loss sees no weight";
  }
}

TEST_P(DeviceTraining, StepsLearnWhatTheCpuLearns) {
  OptimizerConfig config;
  config.learning_rate = 2e-3;
  config.schedule = "constant";
  config.warmup_steps = 0;
  config.eps = 1e-2;  // rounding must not decide where a weight without slope goes
  const auto losses = [&](torch::Device where, torch::Dtype dtype) {
    VisionLanguageModel model = scattered_model(tiny_config());
    model->to(where);
    std::vector<std::pair<std::string, Tensor>> parameters;
    for (const auto& item : model->named_parameters()) parameters.emplace_back(item.key(), item.value());
    Optimizer optimizer(config, parameters, 10);
    std::vector<double> result;
    for (int i = 0; i < 6; ++i) {
      result.push_back(loss_and_gradients(model, where, dtype).loss);
      optimizer.step(0.02);
    }
    return result;
  };
  const std::vector<double> expected = losses(torch::kCPU, torch::kFloat32);
  EXPECT_LT(expected.back(), 0.95 * expected.front()) << "too little is learned to see anything";
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const std::vector<double> actual = losses(device(), dtype);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(actual[i] / expected[i], 1.0, 2 * loss_bound(dtype)) << c10::toString(dtype) << " step " << i;
    }
  }
}

TEST_P(DeviceTraining, CachedDecodingEqualsTheFullForwardOfTheCpu) {
  const torch::NoGradGuard no_grad;
  VisionLanguageModel reference = scattered_model(tiny_config()), model = scattered_model(tiny_config());
  model->to(device());
  const std::vector<int64_t> lengths = {7, 12};
  const Tensor prompts = torch::randint(3, 298, {19}), tails = torch::randint(3, 298, {4, 3});  // two sequences a prompt
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const CachedWeights cached;
    KvCache cache(2, 2, 3);
    {
      const ComputeDtype guard(dtype);
      model->language->prefill_prompts(model->language->embed(moved(prompts)), lengths, cache, {0, 1});
    }
    for (int64_t step = 0; step < 3; ++step) {
      Tensor decoded;
      {
        const ComputeDtype guard(dtype);
        decoded = model->language->decode(model->language->embed(moved(tails.select(1, step))), cache, {0, 1, 2, 3}).to(torch::kFloat32).cpu();
      }
      for (int64_t sequence = 0; sequence < 4; ++sequence) {
        const Tensor start = prompts.split_with_sizes(lengths)[static_cast<std::size_t>(sequence / 2)];
        const Tensor whole = torch::cat({start, tails[sequence].narrow(0, 0, step + 1)});
        const Tensor full =
            reference->language->forward(reference->language->embed(whole), torch::arange(whole.size(0)), {whole.size(0)});
        EXPECT_LT(relative_difference(decoded[sequence], full[-1]), dtype == torch::kFloat32 ? 1e-5 : 6e-2)
            << c10::toString(dtype) << " sequence " << sequence << " step " << step;
      }
    }
  }
}

TEST_P(DeviceTraining, ModelsComeBackFromTheDevice) {
  const torch::NoGradGuard no_grad;
  for (const ModelConfig& config : tiny_configs()) {
    VisionLanguageModel model = scattered_model(config);
    const Batch batch = to_batch(mixed_pack(config));
    const Tensor before = model->hidden_states(batch);
    model->to(device());
    const Tensor away = model->hidden_states(to_batch(mixed_pack(config), device()));
    model->to(torch::kCPU);
    EXPECT_LT(relative_difference(away.cpu(), before), 1e-4);
    EXPECT_TRUE(torch::equal(model->hidden_states(batch), before));
  }
}

TEST_P(DeviceTraining, SpeedAndMemoryAreMeasured) {
  EXPECT_GT(measured_peak(device(), torch::kFloat32), 1e8);
  const Tensor x = torch::ones({256, 256}, torch::TensorOptions(device()));
  const double once = seconds_on(device(), [&] { torch::mm(x, x); });
  EXPECT_GT(seconds_on(device(), [&] { for (int i = 0; i < 200; ++i) torch::mm(x, x); }), once);
  EXPECT_EQ(peak_device_mib(device()) > 0, device().is_cuda());
  EXPECT_EQ(bench_device(device().is_cuda() ? "cuda" : "cpu").type(), device().type());
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceTraining, testing::Values(torch::kCPU, torch::kCUDA), device_name);

TEST(BenchDevice, AGpuThatIsNotThereIsAnError) {
  if (kHaveDeviceKernels && torch::cuda::is_available()) GTEST_SKIP() << "this machine has a GPU";
  const std::string error = error_of([] { bench_device("cuda"); });
  EXPECT_NE(error.find(kHaveDeviceKernels ? "no CUDA device is usable here" : "built without CUDA"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
