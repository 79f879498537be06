#include "model/token_log_probs.h"

#include <torch/csrc/autograd/autograd.h>

#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

using torch::Tensor;

void expect_plain_log_softmax(int64_t rows, int64_t hidden, int64_t vocab, torch::Dtype dtype, double bound) {
  SCOPED_TRACE(fmt::format("{} rows, {} hidden, {} vocab", rows, hidden, vocab));
  const Tensor x = torch::randn({rows, hidden}).to(dtype).set_requires_grad(true);
  const Tensor weight = torch::randn({vocab, hidden}).set_requires_grad(true);
  const Tensor targets = torch::randint(vocab, {rows});
  const Tensor grad = torch::randn({rows});
  const Tensor actual = token_log_probs(x, weight, targets);
  ASSERT_EQ(actual.scalar_type(), torch::kFloat32);

  const Tensor x64 = x.detach().to(torch::kFloat64).set_requires_grad(true);
  const Tensor weight64 = weight.detach().to(dtype).to(torch::kFloat64).set_requires_grad(true);
  const Tensor expected = torch::log_softmax(torch::mm(x64, weight64.t()), 1).gather(1, targets.unsqueeze(1)).squeeze(1);
  EXPECT_LT(relative_difference(actual, expected), bound);
  const auto got = torch::autograd::grad({actual}, {x, weight}, {grad});
  const auto wanted = torch::autograd::grad({expected}, {x64, weight64}, {grad.to(torch::kFloat64)});
  EXPECT_LT(relative_difference(got[0], wanted[0]), 3 * bound);
  EXPECT_LT(relative_difference(got[1], wanted[1]), 3 * bound);
  EXPECT_EQ(got[0].scalar_type(), dtype);
  EXPECT_EQ(got[1].scalar_type(), torch::kFloat32);
}

TEST(TokenLogProbs, EqualPlainLogSoftmaxWithItsGradients) {
  for (const int64_t vocab : {1, 5, 16, 77, 300, 1500}) {
    expect_plain_log_softmax(20, 8, vocab, torch::kFloat32, 5e-6);
  }
}

TEST(TokenLogProbs, EqualPlainLogSoftmaxOverManyBlocksOfTheVocabulary) {
  expect_plain_log_softmax(4000, 4, 2500, torch::kFloat32, 5e-6);
}

TEST(TokenLogProbs, LogitsThatAreKeptAndThoseComputedAgainGiveTheSameGradients) {
  const int64_t rows = 16384, vocab = 2200;  // 138 MiB of logits: the last block is not kept; each half's all are
  const Tensor x = torch::randn({rows, 2}).set_requires_grad(true);
  const Tensor weight = torch::randn({vocab, 2}).set_requires_grad(true);
  const Tensor targets = torch::randint(vocab, {rows});
  const Tensor whole = token_log_probs(x, weight, targets).sum();
  const auto grads = torch::autograd::grad({whole}, {x, weight}, {}, /*retain_graph=*/true);
  const auto again = torch::autograd::grad({whole}, {x, weight});
  Tensor sum = torch::zeros({});
  for (const int64_t begin : {int64_t{0}, rows / 2})
    sum = sum + token_log_probs(x.narrow(0, begin, rows / 2), weight, targets.narrow(0, begin, rows / 2)).sum();
  const auto by_halves = torch::autograd::grad({sum}, {x, weight});
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(torch::equal(grads[i], again[i]));
    EXPECT_LT(relative_difference(grads[i], by_halves[i]), 1e-5);
  }
}

TEST(TokenLogProbs, StayCloseInBfloat16) { expect_plain_log_softmax(50, 8, 300, torch::kBFloat16, 2e-2); }

TEST(TokenLogProbs, NoRowsGiveNoNumbersAndZeroGradients) {
  const Tensor x = torch::zeros({0, 8}).set_requires_grad(true);
  const Tensor weight = torch::randn({30, 8}).set_requires_grad(true);
  const Tensor result = token_log_probs(x, weight, torch::zeros({0}, torch::kInt64));
  EXPECT_EQ(result.size(0), 0);
  result.sum().backward();
  EXPECT_EQ(weight.grad().abs().max().item<float>(), 0.0F);
}

TEST(TokenLogProbs, SkipTheGradientOfFrozenSides) {
  const Tensor x = torch::randn({6, 8}).set_requires_grad(true);
  const Tensor weight = torch::randn({30, 8});
  token_log_probs(x, weight, torch::zeros({6}, torch::kInt64)).sum().backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
}

}  // namespace
}  // namespace pocketvlm
