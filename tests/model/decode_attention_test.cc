#include "model/decode_attention.h"

#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

/// Three prompts with two sequences each whose tails end at different places; the operators of other devices run in float64.
TEST(DecodeAttention, KernelAndOperatorsGiveOneDenseSoftmax) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const std::vector<int64_t> at = {2, 0}, lengths = {5, 9};  // place 1 is never filled
  const int64_t samples = 2, capacity = 4, heads = 4, kv_heads = 2, head_dim = 8;
  KvCache single(3, samples, capacity), exact(3, samples, capacity);
  const torch::Tensor prefix_key = torch::randn({14, kv_heads, head_dim}), prefix_value = torch::randn({14, kv_heads, head_dim});
  std::vector<torch::Tensor> keys(6), values(6);  // of each sequence so far
  for (const int64_t sequence : {4, 5, 0, 1}) {
    const bool first = sequence >= 4;
    keys[static_cast<std::size_t>(sequence)] = first ? prefix_key.narrow(0, 0, 5) : prefix_key.narrow(0, 5, 9);
    values[static_cast<std::size_t>(sequence)] = first ? prefix_value.narrow(0, 0, 5) : prefix_value.narrow(0, 5, 9);
  }
  for (KvCache* cache : {&single, &exact}) {
    cache->begin_prompts(at, lengths);
    const auto dtype = cache == &single ? torch::kFloat32 : torch::kFloat64;
    cache->fill_layer(0, at, prefix_key.to(dtype), prefix_value.to(dtype));
  }
  for (const std::vector<int64_t>& running : {std::vector<int64_t>{0, 1, 4, 5}, {5, 0}, {0, 4}}) {
    const auto rows = static_cast<int64_t>(running.size());
    const torch::Tensor q = torch::randn({rows, heads, head_dim}), k = torch::randn({rows, kv_heads, head_dim}),
                        v = torch::randn({rows, kv_heads, head_dim});
    DecodeStep step;
    step.sequences = running;
    const torch::Tensor from_kernel = decode_attention(q, k, v, step, single, single.layers[0]);
    const auto wide = [](const torch::Tensor& x) { return x.to(torch::kFloat64); };
    const torch::Tensor from_operators = decode_attention(wide(q), wide(k), wide(v), step, exact, exact.layers[0]);
    EXPECT_LT(relative_difference(from_kernel, from_operators), 1e-6);
    for (int64_t row = 0; row < rows; ++row) {
      const auto sequence = static_cast<std::size_t>(running[static_cast<std::size_t>(row)]);
      keys[sequence] = torch::cat({keys[sequence], k.narrow(0, row, 1)});
      values[sequence] = torch::cat({values[sequence], v.narrow(0, row, 1)});
      ++single.tails[sequence];
      ++exact.tails[sequence];
      for (int64_t head = 0; head < heads; ++head) {
        const auto of_head = [&](const torch::Tensor& x) { return wide(x.select(1, head / 2)); };
        const torch::Tensor weights =
            torch::softmax(torch::matmul(of_head(keys[sequence]), wide(q[row][head])) / std::sqrt(8.0), 0);
        const torch::Tensor wanted = torch::matmul(weights, of_head(values[sequence]));
        EXPECT_LT(relative_difference(from_operators[row].narrow(0, head * head_dim, head_dim), wanted), 1e-6);  // scores are float32
      }
    }
  }
}

}  // namespace
}  // namespace pocketvlm
