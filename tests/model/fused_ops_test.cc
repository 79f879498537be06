#include "model/fused_ops.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/model/model_testing.h"

/// Fused kernels against chains of plain operators in float64, forward and backward.
namespace pocketvlm {
namespace {

using torch::Tensor;

/// Sizes around whole vectors of every width.
const std::vector<int64_t> kSizes = {1, 7, 16, 24, 40, 72, 100};

Tensor leaf(at::IntArrayRef sizes, torch::Dtype dtype = torch::kFloat32) {
  return torch::randn(sizes).to(dtype).set_requires_grad(true);
}

Tensor exact(const Tensor& x) { return x.detach().to(torch::kFloat64).set_requires_grad(true); }

double tolerance(torch::Dtype dtype) { return dtype == torch::kFloat32 ? 2e-6 : 2e-2; }

/// Compares results and the gradients of a random linear form of them.
void expect_same(const std::vector<Tensor>& actual,
                 const std::vector<Tensor>& actual_inputs,
                 const std::vector<Tensor>& expected,
                 const std::vector<Tensor>& expected_inputs,
                 double bound) {
  Tensor actual_form = torch::zeros({}, torch::kFloat64), expected_form = torch::zeros({}, torch::kFloat64);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_LT(relative_difference(actual[i], expected[i]), bound) << "result " << i;
    const Tensor direction = torch::randn(actual[i].sizes()).to(actual[i].scalar_type());
    actual_form = actual_form + (actual[i].to(torch::kFloat64) * direction.to(torch::kFloat64)).sum();
    expected_form = expected_form + (expected[i] * direction.to(torch::kFloat64)).sum();
  }
  const auto got = torch::autograd::grad({actual_form}, actual_inputs);
  const auto wanted = torch::autograd::grad({expected_form}, expected_inputs);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].scalar_type(), actual_inputs[i].scalar_type());
    EXPECT_LT(relative_difference(got[i], wanted[i]), 3 * bound) << "gradient " << i;
  }
}

Tensor plain_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  if (bias.defined()) {
    const Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + eps).sqrt() * weight + bias;
  }
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

TEST(FusedOps, NormsEqualPlainOperators) {
  for (const int64_t size : kSizes) {
    for (const auto x_type : {torch::kFloat32, torch::kBFloat16}) {
      for (const auto out : {torch::kFloat32, torch::kBFloat16}) {
        SCOPED_TRACE(fmt::format("size {} {} {}", size, int(x_type), int(out)));
        const double bound = std::max(tolerance(x_type), tolerance(out));
        const Tensor x = leaf({130, size}, x_type), weight = leaf({size}), bias = leaf({size});
        const Tensor x64 = exact(x), weight64 = exact(weight), bias64 = exact(bias);
        if (size > 1) {  // one element alone has no spread
          expect_same({layer_norm(x, weight, bias, 1e-5, out)},
                      {x, weight, bias},
                      {plain_norm(x64, weight64, bias64, 1e-5)},
                      {x64, weight64, bias64},
                      20 * bound);
        }
        expect_same({rms_norm(x, weight, 0.1, out)},
                    {x, weight},
                    {plain_norm(x64, weight64, {}, 0.1)},
                    {x64, weight64},
                    3 * bound);
      }
    }
  }
}

TEST(FusedOps, AddNormEqualsPlainOperatorsAlsoThroughTheSum) {
  for (const int64_t size : kSizes) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const Tensor x = leaf({70, size}), branch = leaf({70, size}, dtype), weight = leaf({size});
      const Tensor x64 = exact(x), branch64 = exact(branch), weight64 = exact(weight);
      const NormedSum result = add_norm(x, branch, 0.7, weight, {}, 0.1, dtype);
      const Tensor sum = x64 + 0.7 * branch64;
      expect_same({result.sum, result.normed},
                  {x, branch, weight},
                  {sum, plain_norm(sum, weight64, {}, 0.1)},
                  {x64, branch64, weight64},
                  3 * tolerance(dtype));
    }
  }
}

TEST(FusedOps, AddNormPassesGradientsWhenOnlyTheSumIsUsed) {
  const Tensor x = leaf({5, 24}), branch = leaf({5, 24}), weight = leaf({24});
  add_norm(x, branch, 0.5, weight, {}, 1e-6, torch::kFloat32).sum.sum().backward();
  EXPECT_TRUE(torch::allclose(x.grad(), torch::ones({5, 24})));
  EXPECT_TRUE(torch::allclose(branch.grad(), torch::full({5, 24}, 0.5)));
}

TEST(FusedOps, NormGradientsDoNotDependOnTheNumberOfThreads) {
  const Tensor x = leaf({1000, 40}), weight = leaf({40}), bias = leaf({40});
  const auto gradient = [&] {
    return torch::autograd::grad({layer_norm(x, weight, bias, 1e-5, torch::kFloat32).square().mul(x).sum()}, {weight})[0];
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor one = gradient();
  at::set_num_threads(2);
  const Tensor two = gradient();
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(one, two));
}

TEST(FusedOps, AddBranchEqualsPlainOperators) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const Tensor x = leaf({9, 23}), branch = leaf({9, 23}, dtype);
    const Tensor x64 = exact(x), branch64 = exact(branch);
    expect_same({add_branch(x, branch, 0.3)}, {x, branch}, {x64 + 0.3 * branch64}, {x64, branch64}, tolerance(dtype));
  }
}

TEST(FusedOps, SwigluEqualsPlainOperators) {
  for (const int64_t ffn : kSizes) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const Tensor x = (torch::randn({33, 2 * ffn}) * 4).to(dtype).set_requires_grad(true);
      const Tensor x64 = exact(x);
      const auto halves = x64.chunk(2, 1);
      expect_same({swiglu(x)}, {x}, {halves[0] * torch::sigmoid(halves[0]) * halves[1]}, {x64}, tolerance(dtype));
    }
  }
}

TEST(FusedOps, GelusEqualPlainOperators) {
  for (const int64_t size : kSizes) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const Tensor x = (torch::randn({33, size}) * 3).to(dtype).set_requires_grad(true);
      const Tensor x64 = exact(x);
      expect_same({gelu_tanh(x)}, {x}, {at::gelu(x64, "tanh")}, {x64}, tolerance(dtype));
      expect_same({quick_gelu(x)}, {x}, {x64 * torch::sigmoid(1.702 * x64)}, {x64}, tolerance(dtype));
    }
  }
}

TEST(FusedOps, GelusSurviveExtremeValues) {
  const Tensor x = torch::tensor({-1e28F, -1000.0F, -30.0F, 0.0F, 30.0F, 1000.0F, 1e28F}).set_requires_grad(true);
  for (const Tensor& y : {gelu_tanh(x), quick_gelu(x)}) {
    const Tensor grad = torch::autograd::grad({y.sum()}, {x})[0];
    EXPECT_TRUE(torch::allclose(y, torch::relu(x), 1e-6, 1e-10)) << y;
    EXPECT_TRUE(torch::allclose(grad, torch::tensor({0.0F, 0.0F, 0.0F, 0.5F, 1.0F, 1.0F, 1.0F}), 1e-6, 1e-10)) << grad;
  }
}

TEST(FusedOps, SwigluSurvivesExtremeGates) {
  const Tensor x = torch::tensor({{-1000.0F, -90.0F, -30.0F, 0.0F, 30.0F, 1000.0F, 2.0F, 2.0F, 2.0F, 2.0F, 2.0F, 2.0F}});
  const Tensor y = swiglu(x);
  EXPECT_TRUE(torch::allclose(y, torch::tensor({{0.0F, 0.0F, 0.0F, 0.0F, 60.0F, 2000.0F}}), 1e-5, 1e-10)) << y;
}

TEST(FusedOps, RotaryTableHoldsTheAnglesOfThePaper) {
  const RotaryTable table = rotary_table(torch::tensor({0, 3, 50}), 8, 10000.0, 2.0);
  for (int64_t t = 0; t < 3; ++t) {
    const double position = std::vector<double>{0, 3, 50}[static_cast<std::size_t>(t)] / 2.0;
    for (int64_t i = 0; i < 4; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(i) / 8.0);
      EXPECT_NEAR(table.cosine[t][i].item<double>(), std::cos(angle), 1e-5);
      EXPECT_NEAR(table.sine[t][i].item<double>(), std::sin(angle), 1e-5);
    }
  }
}

TEST(FusedOps, RotationPairsChannelsHalfAHeadApartAndLeavesValuesAlone) {
  const RotaryTable table = rotary_table(torch::arange(6) * 7, 24, 10000.0, 1.0);
  const Tensor x = torch::randn({6, 5, 24});
  Tensor expected = x.clone().to(torch::kFloat64);
  for (int64_t t = 0; t < 6; ++t) {
    for (int64_t h = 0; h < 3; ++h) {
      for (int64_t i = 0; i < 12; ++i) {
        const double c = table.cosine[t][i].item<double>(), s = table.sine[t][i].item<double>();
        const double low = x[t][h][i].item<double>(), high = x[t][h][i + 12].item<double>();
        expected[t][h][i] = low * c - high * s;
        expected[t][h][i + 12] = high * c + low * s;
      }
    }
  }
  EXPECT_LT(relative_difference(rotate_heads(x, table, 3), expected), 1e-6);
  // With a graph the operators run; both ways agree, and the gradient turns back.
  const Tensor with_graph = x.clone().set_requires_grad(true);
  const Tensor turned = rotate_heads(with_graph, table, 3);
  EXPECT_LT(relative_difference(turned, expected), 1e-6);
  turned.square().sum().backward();
  EXPECT_LT(relative_difference(with_graph.grad(), 2 * x), 1e-5);
}

}  // namespace
}  // namespace pocketvlm
