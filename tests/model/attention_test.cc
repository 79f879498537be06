#include "model/attention.h"

#include <torch/csrc/autograd/autograd.h>

#include "tests/model/model_testing.h"

/// Attention kernels against one dense softmax with a block-diagonal mask, in float64.
namespace pocketvlm {
namespace {

using torch::Tensor;

Tensor segment_numbers(const std::vector<int64_t>& lengths) {
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    parts.push_back(torch::full({lengths[i]}, static_cast<int64_t>(i), torch::kInt64));
  }
  return torch::cat(parts);
}

/// q [queries, heads, d], k and v [keys, kv_heads, d] in float64.
Tensor dense_attention(const Tensor& q,
                       const Tensor& k,
                       const Tensor& v,
                       const std::vector<int64_t>& q_lengths,
                       const std::vector<int64_t>& k_lengths,
                       bool causal) {
  const int64_t group = q.size(1) / k.size(1);
  const Tensor keys = k.repeat_interleave(group, 1), values = v.repeat_interleave(group, 1);
  Tensor allowed = segment_numbers(q_lengths).unsqueeze(1) == segment_numbers(k_lengths).unsqueeze(0);
  if (causal) allowed = allowed.logical_and(torch::ones_like(allowed).tril());
  const Tensor scores = torch::einsum("qhd,khd->hqk", {q, keys}) / std::sqrt(static_cast<double>(q.size(2)));
  const Tensor weights =
      torch::softmax(scores.masked_fill(allowed.logical_not(), -std::numeric_limits<double>::infinity()), -1);
  return torch::einsum("hqk,khd->qhd", {weights, values}).flatten(1);
}

void expect_gradients_agree(const Tensor& actual,
                            const std::vector<Tensor>& inputs,
                            const Tensor& expected,
                            const std::vector<Tensor>& expected_inputs,
                            double bound) {
  EXPECT_LT(relative_difference(actual, expected), bound);
  const Tensor direction = torch::randn(actual.sizes()).to(actual.scalar_type());
  const auto got = torch::autograd::grad({actual}, inputs, {direction});
  const auto wanted = torch::autograd::grad({expected}, expected_inputs, {direction.to(torch::kFloat64)});
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT(relative_difference(got[i], wanted[i]), 3 * bound) << "gradient " << i;
  }
}

/// Lengths around the panel height, the vector width and the block of queries; 513 takes LibTorch's own attention.
const std::vector<std::vector<int64_t>> kSegments = {
    {1}, {5, 6, 7}, {15, 16, 17, 1, 2}, {95, 96, 97}, {200, 3, 60}, {512}, {513, 20}};

TEST(Attention, PackedEqualsDenseMaskedAttentionWithRotaryAndGroupedHeads) {
  for (const auto& lengths : kSegments) {
    for (const int64_t head_dim : {8, 24, 64}) {
      for (const int64_t kv_heads : {1, 2, 4}) {
        SCOPED_TRACE(fmt::format("{} of {}, head_dim {}, kv_heads {}", lengths.size(), lengths[0], head_dim, kv_heads));
        const int64_t heads = 4, tokens = segment_numbers(lengths).size(0);
        if (tokens > 200 && head_dim == 8) continue;
        const Tensor qkv = torch::randn({tokens, heads + 2 * kv_heads, head_dim}).set_requires_grad(true);
        std::vector<Tensor> positions;
        for (const int64_t length : lengths) positions.push_back(torch::arange(length));
        const RotaryTable table = rotary_table(torch::cat(positions), head_dim, 10000.0, 1.0);
        const RotaryTable exact_table = {table.cosine.to(torch::kFloat64), table.sine.to(torch::kFloat64)};
        const Tensor exact = qkv.detach().to(torch::kFloat64).set_requires_grad(true);
        const Tensor c = exact_table.cosine.unsqueeze(1), s = exact_table.sine.unsqueeze(1);
        const Tensor low = exact.narrow(1, 0, heads + kv_heads).narrow(2, 0, head_dim / 2);
        const Tensor high = exact.narrow(1, 0, heads + kv_heads).narrow(2, head_dim / 2, head_dim / 2);
        const Tensor turned = torch::cat({low * c - high * s, high * c + low * s}, 2);
        const Tensor expected = dense_attention(turned.narrow(1, 0, heads),
                                                turned.narrow(1, heads, kv_heads),
                                                exact.narrow(1, heads + kv_heads, kv_heads),
                                                lengths,
                                                lengths,
                                                true);
        expect_gradients_agree(packed_attention(qkv, heads, &table, lengths, true), {qkv}, expected, {exact}, 3e-6);
      }
    }
  }
}

TEST(Attention, LeadingQueriesThatNobodyReadsChangeNothingElse) {
  const std::vector<int64_t> lengths = {40, 7, 130}, unread = {25, 0, 101};
  const int64_t heads = 4, kv_heads = 2, tokens = 177;
  const Tensor qkv = torch::randn({tokens, heads + 2 * kv_heads, 24}).set_requires_grad(true);
  const RotaryTable table = rotary_table(torch::arange(tokens), 24, 10000.0, 1.0);
  Tensor read = torch::ones({tokens});
  read.narrow(0, 0, 25).zero_();
  read.narrow(0, 47, 101).zero_();
  const Tensor rows = read.nonzero().squeeze(1);
  const Tensor direction = torch::randn({rows.size(0), heads * 24});
  const auto run = [&](const std::vector<int64_t>& skipped) {
    const Tensor out = packed_attention(qkv, heads, &table, lengths, true, skipped).index_select(0, rows);
    return std::vector<Tensor>{out, torch::autograd::grad({out}, {qkv}, {direction})[0]};
  };
  const auto expected = run({}), actual = run(unread);
  EXPECT_TRUE(torch::equal(actual[0], expected[0]));
  EXPECT_LT(relative_difference(actual[1], expected[1]), 1e-6);
  EXPECT_EQ(actual[1].narrow(0, 0, 24).narrow(1, 0, heads).abs().max().item<float>(), 0.0F);
}

TEST(Attention, PackedWithoutRotaryAndMaskServesTheVisionEncoder) {
  for (const auto& lengths : kSegments) {
    const int64_t tokens = segment_numbers(lengths).size(0);
    const Tensor qkv = torch::randn({tokens, 9, 40}).set_requires_grad(true);
    const Tensor exact = qkv.detach().to(torch::kFloat64).set_requires_grad(true);
    const Tensor expected = dense_attention(
        exact.narrow(1, 0, 3), exact.narrow(1, 3, 3), exact.narrow(1, 6, 3), lengths, lengths, false);
    expect_gradients_agree(packed_attention(qkv, 3, nullptr, lengths, false), {qkv}, expected, {exact}, 3e-6);
  }
}

TEST(Attention, CrossAttentionTakesDifferentLengthsOnBothSides) {
  const std::vector<int64_t> q_lengths = {5, 5, 100, 5}, k_lengths = {24, 15, 33, 1};
  const Tensor q = torch::randn({115, 2, 16}).set_requires_grad(true);
  const Tensor k = torch::randn({73, 2, 16}).set_requires_grad(true);
  const Tensor v = torch::randn({73, 2, 16}).set_requires_grad(true);
  const auto exact = [](const Tensor& x) { return x.detach().to(torch::kFloat64).set_requires_grad(true); };
  const Tensor q64 = exact(q), k64 = exact(k), v64 = exact(v);
  expect_gradients_agree(cross_attention(q, k, v, q_lengths, k_lengths),
                         {q, k, v},
                         dense_attention(q64, k64, v64, q_lengths, k_lengths, false),
                         {q64, k64, v64},
                         3e-6);
}

TEST(Attention, SegmentAttentionTakesViewsIntoWiderRows) {
  const std::vector<int64_t> lengths = {9, 30};
  const Tensor wide = torch::randn({39, 8, 16});
  const Tensor q = wide.narrow(1, 0, 4), k = wide.narrow(1, 4, 2), v = wide.narrow(1, 6, 2);
  const auto exact = [](const Tensor& x) { return x.to(torch::kFloat64); };
  EXPECT_LT(relative_difference(segment_attention(q, k, v, lengths, true),
                                dense_attention(exact(q), exact(k), exact(v), lengths, lengths, true)),
            3e-6);
}

TEST(Attention, Bfloat16StaysWithinItsRounding) {
  const std::vector<int64_t> lengths = {40, 100};
  const Tensor qkv = torch::randn({140, 12, 32}).to(torch::kBFloat16).set_requires_grad(true);
  const Tensor exact = qkv.detach().to(torch::kFloat64).set_requires_grad(true);
  const Tensor expected = dense_attention(
      exact.narrow(1, 0, 4), exact.narrow(1, 4, 4), exact.narrow(1, 8, 4), lengths, lengths, true);
  expect_gradients_agree(packed_attention(qkv, 4, nullptr, lengths, true), {qkv}, expected, {exact}, 6e-3);
}

TEST(Attention, GreatScoresDoNotOverflow) {
  const Tensor qkv = torch::randn({20, 3, 16}) * 300.0;
  EXPECT_TRUE(torch::isfinite(packed_attention(qkv, 1, nullptr, {20}, true)).all().item<bool>());
}

}  // namespace
}  // namespace pocketvlm
