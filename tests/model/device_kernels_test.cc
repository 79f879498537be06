#include <torch/csrc/autograd/autograd.h>

#include <numeric>

#include "model/attention.h"
#include "model/flash_attention.h"
#include "model/fused_ops.h"
#include "model/token_log_probs.h"
#include "tests/model/model_testing.h"
#include "tests/model/on_device.h"

/// Every kernel against plain operators in float64 on the CPU, forward and backward, wherever it can run.
namespace pocketvlm {
namespace {

using torch::Tensor;

/// Around one, four and many elements a thread; those not divisible by four are read one by one.
const std::vector<int64_t> kSizes = {1, 3, 4, 7, 40, 100, 129, 1152, 2051};
const std::vector<torch::Dtype> kTypes = {torch::kFloat32, torch::kBFloat16};

double tolerance(torch::Dtype dtype) { return dtype == torch::kFloat32 ? 3e-6 : 2e-2; }

/// Compares results and the gradients of a random linear form of them.
void expect_same(const std::vector<Tensor>& actual,
                 const std::vector<Tensor>& actual_inputs,
                 const std::vector<Tensor>& expected,
                 const std::vector<Tensor>& expected_inputs,
                 double bound) {
  std::vector<Tensor> directions, exact_directions;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_LT(relative_difference(actual[i].cpu(), expected[i]), bound) << "result " << i;
    const Tensor direction = torch::randn(expected[i].sizes()).to(actual[i].scalar_type());
    directions.push_back(direction.to(actual[i].device()));
    exact_directions.push_back(direction.to(torch::kFloat64));
  }
  const auto got = torch::autograd::grad(actual, actual_inputs, directions);
  const auto wanted = torch::autograd::grad(expected, expected_inputs, exact_directions);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].scalar_type(), actual_inputs[i].scalar_type());
    EXPECT_EQ(got[i].device(), actual_inputs[i].device());
    EXPECT_LT(relative_difference(got[i].cpu(), wanted[i]), 3 * bound) << "gradient " << i;
  }
}

Tensor plain_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  if (bias.defined()) {
    const Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + eps).sqrt() * weight + bias;
  }
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

class DeviceKernels : public OnDevice {};

TEST_P(DeviceKernels, NormsEqualPlainOperators) {
  for (const int64_t size : kSizes) {
    for (const auto x_type : kTypes) {
      for (const auto out : kTypes) {
        for (const bool shifted : {false, true}) {
          SCOPED_TRACE(fmt::format("size {} of {} to {}{}", size, c10::toString(x_type), c10::toString(out), shifted ? ", shifted" : ""));
          const double bound = std::max(tolerance(x_type), tolerance(out));
          const Tensor x = leaf(torch::randn({130, size}).to(x_type), shifted);
          const Tensor weight = leaf(torch::randn({size}), shifted), bias = leaf(torch::randn({size}), shifted);
          const Tensor x64 = exact_leaf(x), weight64 = exact_leaf(weight), bias64 = exact_leaf(bias);
          expect_same({rms_norm(x, weight, 0.1, out)}, {x, weight}, {plain_norm(x64, weight64, {}, 0.1)}, {x64, weight64}, 3 * bound);
          if (size < 4) continue;  // few elements may have next to no spread
          expect_same({layer_norm(x, weight, bias, 0.1, out)},
                      {x, weight, bias},
                      {plain_norm(x64, weight64, bias64, 0.1)},
                      {x64, weight64, bias64},
                      5 * bound);
        }
      }
    }
  }
}

TEST_P(DeviceKernels, SumsAndTheirNormsEqualPlainOperators) {
  for (const int64_t size : kSizes) {
    for (const auto dtype : kTypes) {
      for (const bool shifted : {false, true}) {
        for (const bool with_bias : {false, true}) {
          if (with_bias && size < 4) continue;
          SCOPED_TRACE(fmt::format("size {} {}{}{}", size, c10::toString(dtype), shifted ? ", shifted" : "", with_bias ? ", bias" : ""));
          const Tensor x = leaf(torch::randn({70, size}), shifted), branch = leaf(torch::randn({70, size}).to(dtype), shifted);
          const Tensor weight = leaf(torch::randn({size}), shifted), bias = leaf(torch::randn({size}), shifted);
          const Tensor x64 = exact_leaf(x), branch64 = exact_leaf(branch), weight64 = exact_leaf(weight), bias64 = exact_leaf(bias);
          const NormedSum result = add_norm(x, branch, 0.7, weight, with_bias ? bias : Tensor(), 0.1, dtype);
          const Tensor sum = x64 + 0.7 * branch64;
          std::vector<Tensor> inputs = {x, branch, weight}, exact = {x64, branch64, weight64};
          if (with_bias) {
            inputs.push_back(bias);
            exact.push_back(bias64);
          }
          expect_same({result.sum, result.normed},
                      inputs,
                      {sum, plain_norm(sum, weight64, with_bias ? bias64 : Tensor(), 0.1)},
                      exact,
                      5 * tolerance(dtype));
          expect_same({add_branch(x, branch, 0.3)}, {x, branch}, {x64 + 0.3 * branch64}, {x64, branch64}, tolerance(dtype));
        }
      }
    }
  }
}

TEST_P(DeviceKernels, SwigluEqualsPlainOperators) {
  for (const int64_t ffn : kSizes) {
    for (const auto dtype : kTypes) {
      for (const bool shifted : {false, true}) {
        SCOPED_TRACE(fmt::format("ffn {} {}{}", ffn, c10::toString(dtype), shifted ? ", shifted" : ""));
        const Tensor x = leaf((torch::randn({33, 2 * ffn}) * 4).to(dtype), shifted), x64 = exact_leaf(x);
        const auto halves = x64.chunk(2, 1);
        expect_same({swiglu(x)}, {x}, {halves[0] * torch::sigmoid(halves[0]) * halves[1]}, {x64}, tolerance(dtype));
      }
    }
  }
  const Tensor extreme = moved(torch::tensor({{-1000.0F, -90.0F, 0.0F, 1000.0F, 2.0F, 2.0F, 2.0F, 2.0F}}));
  EXPECT_TRUE(torch::allclose(swiglu(extreme).cpu(), torch::tensor({{0.0F, 0.0F, 0.0F, 2000.0F}}), 1e-5, 1e-10));
}

TEST_P(DeviceKernels, GelusEqualPlainOperators) {
  for (const auto dtype : kTypes) {
    const Tensor x = leaf((torch::randn({33, 41}) * 3).to(dtype)), x64 = exact_leaf(x);
    expect_same({gelu_tanh(x)}, {x}, {at::gelu(x64, "tanh")}, {x64}, tolerance(dtype));
    expect_same({quick_gelu(x)}, {x}, {x64 * torch::sigmoid(1.702 * x64)}, {x64}, 2 * tolerance(dtype));
  }
}

Tensor plain_rotation(const Tensor& x, const RotaryTable& table, int64_t rotated) {
  const int64_t half = x.size(2) / 2;
  const Tensor c = table.cosine.cpu().to(torch::kFloat64).unsqueeze(1), s = table.sine.cpu().to(torch::kFloat64).unsqueeze(1);
  const Tensor low = x.narrow(1, 0, rotated).narrow(2, 0, half), high = x.narrow(1, 0, rotated).narrow(2, half, half);
  return torch::cat({torch::cat({low * c - high * s, high * c + low * s}, 2), x.narrow(1, rotated, x.size(1) - rotated)}, 1);
}

TEST_P(DeviceKernels, RotationEqualsPlainOperatorsAndTurnsBack) {
  for (const int64_t head_dim : {2, 6, 8, 20, 64, 128}) {
    for (const auto dtype : kTypes) {
      for (const bool shifted : {false, true}) {
        SCOPED_TRACE(fmt::format("head_dim {} {}{}", head_dim, c10::toString(dtype), shifted ? ", shifted" : ""));
        const RotaryTable table = rotary_table(moved(torch::arange(37) * 5), head_dim, 10000.0, 1.0);
        const Tensor x = leaf(torch::randn({37, 6, head_dim}).to(dtype), shifted), x64 = exact_leaf(x);
        const Tensor expected = plain_rotation(x64, table, 4);
        expect_same({rotate_heads(x, table, 4)}, {x}, {expected}, {x64}, tolerance(dtype));
        const torch::NoGradGuard no_grad;
        const Tensor turned = rotate_heads(x, table, 4);
        EXPECT_LT(relative_difference(turned.cpu(), expected), tolerance(dtype));
        EXPECT_TRUE(torch::equal(turned.narrow(1, 4, 2), x.narrow(1, 4, 2)));
        const Tensor wide = torch::zeros({37, 9, head_dim}, turned.options());
        turn_heads(turned, table, 4, /*inverse=*/true, wide.narrow(1, 2, 6));
        EXPECT_LT(relative_difference(wide.narrow(1, 2, 6).cpu(), x64), 2 * tolerance(dtype));
        EXPECT_EQ(wide.narrow(1, 0, 2).abs().max().item<float>(), 0.0F);
        EXPECT_EQ(wide.narrow(1, 8, 1).abs().max().item<float>(), 0.0F);
      }
    }
  }
}

void expect_plain_log_softmax(const Tensor& x, const Tensor& weight, const Tensor& targets, double bound) {
  const Tensor actual = token_log_probs(x, weight, targets);
  ASSERT_EQ(actual.scalar_type(), torch::kFloat32);
  const Tensor x64 = exact_leaf(x);
  const Tensor weight64 = exact_leaf(weight.detach().to(x.scalar_type()));
  const Tensor grad = torch::randn({x.size(0)});
  std::vector<Tensor> expected;
  const auto wanted = [&] {
    std::vector<Tensor> sum;
    for (int64_t begin = 0; begin < x.size(0); begin += 4096) {  // a few rows of the vocabulary at a time
      const int64_t count = std::min<int64_t>(4096, x.size(0) - begin);
      const Tensor logits = torch::mm(x64.narrow(0, begin, count), weight64.t());
      const Tensor ids = targets.cpu().narrow(0, begin, count).unsqueeze(1);
      expected.push_back(torch::log_softmax(logits, 1).gather(1, ids).squeeze(1));
      const auto part =
          torch::autograd::grad({expected.back()}, {x64, weight64}, {grad.narrow(0, begin, count).to(torch::kFloat64)});
      if (sum.empty()) sum = {torch::zeros_like(x64), torch::zeros_like(weight64)};
      for (std::size_t i = 0; i < 2; ++i) sum[i] += part[i];
      expected.back() = expected.back().detach();
    }
    return sum;
  }();
  EXPECT_LT(relative_difference(actual.cpu(), torch::cat(expected)), bound);
  const auto got = torch::autograd::grad({actual}, {x, weight}, {grad.to(x.device())});
  for (std::size_t i = 0; i < 2; ++i) EXPECT_LT(relative_difference(got[i].cpu(), wanted[i]), 3 * bound) << "gradient " << i;
}

TEST_P(DeviceKernels, TokenLogProbsEqualPlainLogSoftmax) {
  for (const int64_t vocab : {1, 5, 77, 300, 1500, 4100}) {
    for (const auto dtype : kTypes) {
      SCOPED_TRACE(fmt::format("vocab {} {}", vocab, c10::toString(dtype)));
      expect_plain_log_softmax(leaf(torch::randn({21, 8}).to(dtype)),
                               leaf(torch::randn({vocab, 8})),
                               moved(torch::randint(vocab, {21})),
                               dtype == torch::kFloat32 ? 5e-6 : 2e-2);
    }
  }
}

TEST_P(DeviceKernels, TokenLogProbsEqualPlainLogSoftmaxOverManyBlocks) {
  const int64_t rows = device().is_cuda() ? 65700 : 4000, vocab = device().is_cuda() ? 1030 : 2500;
  expect_plain_log_softmax(leaf(torch::randn({rows, 4})), leaf(torch::randn({vocab, 4})), moved(torch::randint(vocab, {rows})), 5e-6);
}

TEST_P(DeviceKernels, TokenLogProbsTakeGreatLogits) {
  const Tensor x = leaf(torch::tensor({{300.0F}, {-300.0F}}));
  const Tensor weight = leaf(torch::tensor({{100.0F}, {0.0F}, {-100.0F}}));
  const Tensor result = token_log_probs(x, weight, moved(torch::tensor({0, 0})));
  EXPECT_TRUE(torch::allclose(result.cpu(), torch::tensor({0.0F, -60000.0F}))) << result;
  result.sum().backward();
  EXPECT_TRUE(torch::isfinite(x.grad()).all().item<bool>());
}

/// Segment by segment, one softmax each. q [queries, heads, d], k and v [keys, kv_heads, d]; returns [queries, heads, d]. With
/// `log_sums` their logarithms go there, [heads, queries] as FlashAttention has them.
Tensor plain_attention(const Tensor& q,
                       const Tensor& k,
                       const Tensor& v,
                       const std::vector<int64_t>& q_lengths,
                       const std::vector<int64_t>& k_lengths,
                       bool causal,
                       Tensor* log_sums = nullptr) {
  const int64_t group = q.size(1) / k.size(1);
  std::vector<Tensor> results, sums;
  int64_t q_begin = 0, k_begin = 0;
  for (std::size_t i = 0; i < q_lengths.size(); ++i) {
    const auto of_heads = [&](const Tensor& x, int64_t begin, int64_t length) { return x.narrow(0, begin, length).transpose(0, 1); };
    const Tensor queries = of_heads(q, q_begin, q_lengths[i]);
    const Tensor keys = of_heads(k, k_begin, k_lengths[i]).repeat_interleave(group, 0);
    const Tensor values = of_heads(v, k_begin, k_lengths[i]).repeat_interleave(group, 0);
    Tensor scores = torch::bmm(queries, keys.transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
    if (causal) {
      const Tensor hidden = torch::ones({q_lengths[i], k_lengths[i]}, q.options().dtype(torch::kBool)).triu(1);
      scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
    }
    results.push_back(torch::bmm(torch::softmax(scores, 2), values).transpose(0, 1));
    sums.push_back(torch::logsumexp(scores, 2));
    q_begin += q_lengths[i];
    k_begin += k_lengths[i];
  }
  if (log_sums != nullptr) *log_sums = torch::cat(sums, 1);
  return torch::cat(results);
}

/// Queries, keys and values in one tensor, turned first where there is a table; the heads of a token side by side.
Tensor plain_packed_attention(
    const Tensor& qkv, int64_t heads, const RotaryTable* rotary, const std::vector<int64_t>& lengths, bool causal) {
  const int64_t kv_heads = (qkv.size(1) - heads) / 2;
  const Tensor turned = rotary != nullptr ? plain_rotation(qkv, *rotary, heads + kv_heads) : qkv;
  return plain_attention(turned.narrow(1, 0, heads),
                         turned.narrow(1, heads, kv_heads),
                         turned.narrow(1, heads + kv_heads, kv_heads),
                         lengths,
                         lengths,
                         causal)
      .flatten(1);
}

/// Around the blocks of FlashAttention and of the CPU's kernels.
const std::vector<std::vector<int64_t>> kSegments = {{1}, {5, 6, 7}, {1, 63, 64, 65, 2}, {127, 128, 129}, {513, 20}};

double attention_tolerance(torch::Dtype dtype) { return dtype == torch::kFloat32 ? 5e-6 : 1e-2; }

TEST_P(DeviceKernels, PackedAttentionEqualsPlainOperators) {
  for (const auto& lengths : kSegments) {
    for (const int64_t head_dim : {8, 12, 64, 72, 128}) {
      for (const int64_t kv_heads : {1, 2, 4}) {
        for (const auto dtype : kTypes) {
          for (const bool causal : {true, false}) {
            SCOPED_TRACE(fmt::format("{} of {}, head_dim {}, kv_heads {}, {}{}",
                                     lengths.size(), lengths[0], head_dim, kv_heads, c10::toString(dtype), causal ? ", causal" : ""));
            const int64_t heads = 4, tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
            if (tokens > 200 && kv_heads != 2) continue;
            const Tensor qkv = leaf(torch::randn({tokens, heads + 2 * kv_heads, head_dim}).to(dtype)), exact = exact_leaf(qkv);
            std::vector<Tensor> positions;
            for (const int64_t length : lengths) positions.push_back(torch::arange(length));
            const RotaryTable table = rotary_table(moved(torch::cat(positions)), head_dim, 10000.0, 1.0);
            const RotaryTable* rotary = causal ? &table : nullptr;  // a vision encoder has none
            expect_same({packed_attention(qkv, heads, rotary, lengths, causal)},
                        {qkv},
                        {plain_packed_attention(exact, heads, rotary, lengths, causal)},
                        {exact},
                        attention_tolerance(dtype));
          }
        }
      }
    }
  }
}

TEST_P(DeviceKernels, CrossAttentionEqualsPlainOperators) {
  const std::vector<int64_t> q_lengths = {5, 64, 100, 1}, k_lengths = {24, 15, 333, 1};
  for (const int64_t head_dim : {16, 72, 128}) {
    for (const auto dtype : kTypes) {
      SCOPED_TRACE(fmt::format("head_dim {} {}", head_dim, c10::toString(dtype)));
      const Tensor q = leaf(torch::randn({170, 2, head_dim}).to(dtype)), q64 = exact_leaf(q);
      const Tensor k = leaf(torch::randn({373, 2, head_dim}).to(dtype)), k64 = exact_leaf(k);
      const Tensor v = leaf(torch::randn({373, 2, head_dim}).to(dtype)), v64 = exact_leaf(v);
      expect_same({cross_attention(q, k, v, q_lengths, k_lengths)},
                  {q, k, v},
                  {plain_attention(q64, k64, v64, q_lengths, k_lengths, false).flatten(1)},
                  {q64, k64, v64},
                  attention_tolerance(dtype));
    }
  }
}

TEST_P(DeviceKernels, SegmentAttentionTakesViewsIntoWiderRows) {
  const std::vector<int64_t> lengths = {9, 30};
  for (const auto dtype : kTypes) {
    const Tensor wide = leaf(torch::randn({39, 8, 16}).to(dtype)), exact = exact_leaf(wide);
    const auto attend = [&](const Tensor& x, auto attention) { return attention(x.narrow(1, 0, 4), x.narrow(1, 4, 2), x.narrow(1, 6, 2)); };
    expect_same({attend(wide, [&](auto... x) { return segment_attention(x..., lengths, true); })},
                {wide},
                {attend(exact, [&](auto... x) { return plain_attention(x..., lengths, lengths, true).flatten(1); })},
                {exact},
                attention_tolerance(dtype));
  }
}

std::vector<int64_t> lengths_of(const Tensor& starts) {
  const Tensor lengths = starts.cpu().to(torch::kInt64).diff();
  return {lengths.data_ptr<int64_t>(), lengths.data_ptr<int64_t>() + lengths.numel()};
}

/// What FlashAttention's operators compute, by plain ones. The second random state marks the call.
FlashOperators::Outputs plain_flash_forward(const Tensor& q, const Tensor& k, const Tensor& v, const FlashOperators::Segments& segments) {
  EXPECT_EQ(q.stride(2), 1);
  EXPECT_EQ(segments.q_starts.scalar_type(), torch::kInt32);
  const std::vector<int64_t> q_lengths = lengths_of(segments.q_starts), k_lengths = lengths_of(segments.k_starts);
  EXPECT_EQ(segments.longest_q, *std::max_element(q_lengths.begin(), q_lengths.end()));
  EXPECT_EQ(segments.longest_k, *std::max_element(k_lengths.begin(), k_lengths.end()));
  Tensor log_sums;
  const Tensor out = plain_attention(q, k, v, q_lengths, k_lengths, segments.causal, &log_sums);
  return {out, log_sums, torch::full({2}, 7.0), torch::full({}, 8.0)};
}

FlashOperators::Gradients plain_flash_backward(const Tensor& grad_out,
                                               const Tensor& q,
                                               const Tensor& k,
                                               const Tensor& v,
                                               const FlashOperators::Outputs& outputs,
                                               const FlashOperators::Segments& segments) {
  EXPECT_TRUE(grad_out.is_contiguous());
  EXPECT_EQ(std::get<2>(outputs).numel(), 2);
  EXPECT_EQ(std::get<3>(outputs).item<double>(), 8.0);
  const torch::AutoGradMode with_graph(true);
  std::vector<Tensor> inputs;
  for (const Tensor& x : {q, k, v}) inputs.push_back(x.detach().set_requires_grad(true));
  Tensor log_sums;
  const Tensor out = plain_attention(
      inputs[0], inputs[1], inputs[2], lengths_of(segments.q_starts), lengths_of(segments.k_starts), segments.causal, &log_sums);
  EXPECT_LT(relative_difference(std::get<0>(outputs).cpu(), out.cpu()), 1e-6);
  EXPECT_LT(relative_difference(std::get<1>(outputs).cpu(), log_sums.cpu()), 1e-6);
  const auto grads = torch::autograd::grad({out}, inputs, {grad_out});
  return {grads[0], grads[1], grads[2]};
}

/// What stands around LibTorch's operators, which need a GPU: rotation, parts, starts, gradients put together.
TEST_P(DeviceKernels, FlashAttentionAroundPlainOperatorsEqualsPlainAttention) {
  static const FlashOperators plain = {plain_flash_forward, plain_flash_backward};
  const std::vector<int64_t> lengths = {5, 1, 40}, more = {9, 3, 8};
  const int64_t heads = 6, kv_heads = 2, tokens = 46, head_dim = 16;
  const RotaryTable table = rotary_table(moved(torch::arange(tokens)), head_dim, 10000.0, 1.0);
  for (const RotaryTable* rotary : {&table, static_cast<const RotaryTable*>(nullptr)}) {
    for (const bool causal : {true, false}) {
      const Tensor qkv = leaf(torch::randn({tokens, heads + 2 * kv_heads, head_dim})), exact = exact_leaf(qkv);
      expect_same({flash_packed_attention(qkv, heads, rotary, lengths, causal, plain)},
                  {qkv},
                  {plain_packed_attention(exact, heads, rotary, lengths, causal)},
                  {exact},
                  5e-6);
    }
  }
  const Tensor q = leaf(torch::randn({tokens, heads, head_dim})), q64 = exact_leaf(q);
  const Tensor k = leaf(torch::randn({20, kv_heads, head_dim})), k64 = exact_leaf(k);
  const Tensor v = leaf(torch::randn({20, kv_heads, head_dim})), v64 = exact_leaf(v);
  expect_same({flash_cross_attention(q, k, v, lengths, more, false, plain)},
              {q, k, v},
              {plain_attention(q64, k64, v64, lengths, more, false).flatten(1)},
              {q64, k64, v64},
              5e-6);
}

TEST_P(DeviceKernels, FlashAttentionIsForBfloat16HeadsOnAGpu) {
  const auto taken = [&](torch::Dtype dtype, int64_t head_dim) {
    return flash_takes(torch::empty({2, 1, head_dim}, torch::TensorOptions(device()).dtype(dtype)));
  };
  EXPECT_EQ(taken(torch::kBFloat16, 72), device().is_cuda());
  EXPECT_FALSE(taken(torch::kBFloat16, 12));
  EXPECT_FALSE(taken(torch::kBFloat16, 264));
  EXPECT_FALSE(taken(torch::kFloat32, 64));
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceKernels, testing::Values(torch::kCPU, torch::kCUDA), device_name);

}  // namespace
}  // namespace pocketvlm
