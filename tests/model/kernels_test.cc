#include "model/kernels/kernels.h"

#include "tests/model/model_testing.h"

/// Every instruction set's kernels give the numbers of the portable ones.
namespace pocketvlm::kernels {
namespace {

using torch::Tensor;

struct Outputs {
  std::vector<Tensor> tensors;
};

Type type_of(torch::Dtype dtype) { return dtype == torch::kFloat32 ? Type::kFloat : Type::kBfloat16; }

Outputs attention(const Table& kernels, torch::Dtype dtype, int64_t head_dim, bool causal) {
  torch::manual_seed(3);
  const std::vector<int64_t> begins = {0, 37, 38}, lengths = {37, 1, 100};
  const int64_t tokens = 138, heads = 4, kv_heads = 2;
  const Tensor qkv = torch::randn({tokens, heads + 2 * kv_heads, head_dim}).to(dtype);
  const Tensor angles = torch::randn({tokens, head_dim / 2});
  const Tensor cosine = angles.cos(), sine = angles.sin();
  const Tensor grad_out = torch::randn({tokens, heads * head_dim}).to(dtype);
  const Tensor out = torch::zeros_like(grad_out), log_sum = torch::zeros({tokens, heads}), grad = torch::zeros_like(qkv);
  const auto at_head = [&](const Tensor& x, int64_t head) {
    return static_cast<char*>(x.data_ptr()) + head * head_dim * x.element_size();
  };
  Attention args = {};
  args.heads = heads;
  args.kv_heads = kv_heads;
  args.head_dim = head_dim;
  args.q_begin = args.k_begin = begins.data();
  args.q_length = args.k_length = lengths.data();
  args.causal = causal;
  args.scale = 0.3F;
  args.type = type_of(dtype);
  args.q = at_head(qkv, 0);
  args.k = at_head(qkv, heads);
  args.v = at_head(qkv, heads + kv_heads);
  args.q_stride = args.k_stride = args.v_stride = qkv.stride(0);
  args.cosine = cosine.data_ptr<float>();
  args.sine = sine.data_ptr<float>();
  args.out = out.data_ptr();
  args.log_sum = log_sum.data_ptr<float>();
  args.grad_out = grad_out.data_ptr();
  args.grad_q = at_head(grad, 0);
  args.grad_k = at_head(grad, heads);
  args.grad_v = at_head(grad, heads + kv_heads);
  args.grad_q_stride = args.grad_k_stride = args.grad_v_stride = grad.stride(0);
  args.longest_k = 100;
  std::vector<float> scratch(static_cast<std::size_t>(kernels.attention_scratch(args)));
  kernels.attention_forward(args, 0, 3 * kv_heads, scratch.data());
  // Scratch that was used before must not matter.
  std::fill(scratch.begin(), scratch.end(), std::numeric_limits<float>::quiet_NaN());
  kernels.attention_backward(args, 0, 3 * kv_heads, scratch.data());
  return {{out, log_sum, grad}};
}

Outputs norm(const Table& kernels, torch::Dtype dtype, int64_t size) {
  torch::manual_seed(4);
  const int64_t rows = 70;
  const Tensor x = torch::randn({rows, size}), branch = torch::randn({rows, size}).to(dtype);
  const Tensor weight = torch::randn({size}), bias = torch::randn({size});
  const Tensor sum = torch::zeros({rows, size}), y = torch::zeros({rows, size}, dtype), mean = torch::zeros({rows}),
               inverse = torch::zeros({rows});
  kernels.norm_forward({.size = size,
                        .eps = 0.1F,
                        .x = x.data_ptr(),
                        .x_type = Type::kFloat,
                        .branch = branch.data_ptr(),
                        .scale = 0.5F,
                        .sum = sum.data_ptr<float>(),
                        .weight = weight.data_ptr<float>(),
                        .bias = bias.data_ptr<float>(),
                        .y = y.data_ptr(),
                        .mean = mean.data_ptr<float>(),
                        .inverse = inverse.data_ptr<float>(),
                        .type = type_of(dtype)},
                       0,
                       rows);
  const Tensor grad_y = torch::randn({rows, size}).to(dtype), grad_x = torch::zeros({rows, size});
  const Tensor grad_branch = torch::zeros({rows, size}, dtype), grad_weight = torch::zeros({2, size}),
               grad_bias = torch::zeros({2, size});
  kernels.norm_backward({.rows = rows,
                         .size = size,
                         .x = sum.data_ptr(),
                         .x_type = Type::kFloat,
                         .weight = weight.data_ptr<float>(),
                         .mean = mean.data_ptr<float>(),
                         .inverse = inverse.data_ptr<float>(),
                         .grad_y = grad_y.data_ptr(),
                         .grad_sum = nullptr,
                         .grad_x = grad_x.data_ptr(),
                         .grad_branch = grad_branch.data_ptr(),
                         .scale = 0.5F,
                         .grad_weight = grad_weight.data_ptr<float>(),
                         .grad_bias = grad_bias.data_ptr<float>(),
                         .type = type_of(dtype)},
                        0,
                        2);
  return {{sum, y, grad_x, grad_branch, grad_weight, grad_bias}};
}

Outputs elementwise(const Table& kernels, torch::Dtype dtype, int64_t ffn) {
  torch::manual_seed(5);
  const int64_t rows = 5;
  const Tensor gate_up = torch::randn({rows, 2 * ffn}).to(dtype), grad_y = torch::randn({rows, ffn}).to(dtype);
  const Tensor y = torch::zeros({rows, ffn}, dtype), grad = torch::zeros_like(gate_up);
  const Swiglu swiglu = {ffn, gate_up.data_ptr(), y.data_ptr(), grad_y.data_ptr(), grad.data_ptr(), type_of(dtype)};
  kernels.swiglu_forward(swiglu, 0, rows);
  kernels.swiglu_backward(swiglu, 0, rows);
  const Tensor gated = torch::zeros({rows, ffn}, dtype), grad_gated = torch::zeros_like(gated);
  const SigmoidGate gate = {1.5F, 0.07F, gate_up.data_ptr(), gated.data_ptr(), grad_y.data_ptr(), grad_gated.data_ptr(),
                            type_of(dtype)};
  kernels.sigmoid_gate_forward(gate, 0, rows * ffn);
  kernels.sigmoid_gate_backward(gate, 0, 3);
  kernels.sigmoid_gate_backward(gate, 3, rows * ffn);
  const Tensor logits = (torch::randn({rows, ffn}) * 3).to(dtype), targets = torch::arange(rows);
  const Tensor log_sum = torch::full({rows}, -std::numeric_limits<float>::infinity()), picked = torch::zeros({rows});
  const Tensor row_grad = torch::randn({rows});
  LogitBlock block = {};
  block.count = block.stride = ffn;
  block.targets = targets.data_ptr<int64_t>();
  block.logits = logits.data_ptr();
  block.log_sum = log_sum.data_ptr<float>();
  block.picked = picked.data_ptr<float>();
  block.grad = row_grad.data_ptr<float>();
  block.type = type_of(dtype);
  kernels.log_sum_block(block, 0, rows);
  kernels.logit_gradient_block(block, 0, rows);
  return {{y, grad, gated, grad_gated, log_sum, picked, logits}};
}

Outputs decoding(const Table& kernels, torch::Dtype dtype, int64_t head_dim) {
  torch::manual_seed(6);
  const std::vector<int64_t> prefixes = {33, 7};
  const int64_t samples = 3, heads = 4, kv_heads = 2, capacity = 8;
  const std::vector<int64_t> tails = {4, 0, 7, 2, 4, 1}, sequences = {5, 0, 2, 1};  // two have ended
  const auto random = [&](at::IntArrayRef sizes) { return torch::randn(sizes).to(dtype); };
  const Tensor q = random({4, heads, head_dim}), k = random({4, kv_heads, head_dim}), v = random({4, kv_heads, head_dim});
  const Tensor pk = random({2, kv_heads, 33, head_dim}), pv = random({2, kv_heads, 33, head_dim});
  const Tensor tk = random({6, kv_heads, capacity, head_dim}), tv = random({6, kv_heads, capacity, head_dim});
  const Tensor out = torch::zeros({4, heads * head_dim}, dtype);
  const DecodeAttention args = {.heads = heads,
                                .kv_heads = kv_heads,
                                .head_dim = head_dim,
                                .samples = samples,
                                .prefix_capacity = 33,
                                .prefix_lengths = prefixes.data(),
                                .sequences = sequences.data(),
                                .tails = tails.data(),
                                .tail_capacity = capacity,
                                .q = q.data_ptr(),
                                .k = k.data_ptr(),
                                .v = v.data_ptr(),
                                .q_stride = heads * head_dim,
                                .k_stride = kv_heads * head_dim,
                                .v_stride = kv_heads * head_dim,
                                .prefix_key = pk.data_ptr(),
                                .prefix_value = pv.data_ptr(),
                                .tail_key = tk.data_ptr(),
                                .tail_value = tv.data_ptr(),
                                .out = out.data_ptr(),
                                .scale = 0.3F,
                                .type = type_of(dtype)};
  std::vector<float> scratch(static_cast<std::size_t>(kernels.decode_scratch(args)));
  kernels.decode_attention(args, 0, 4 * kv_heads, scratch.data());
  return {{out, tk, tv}};
}

Outputs softmax_row(const Table& kernels, int64_t count) {
  torch::manual_seed(7);
  const Tensor x = torch::randn({count}) * 5, weights = torch::zeros({count}), best = torch::zeros({1});
  double total = 0.0, total_alone = 0.0;
  kernels.exp_row({count, x.data_ptr<float>(), weights.data_ptr<float>(), best.data_ptr<float>(), &total});
  kernels.exp_row({count, x.data_ptr<float>(), nullptr, best.data_ptr<float>(), &total_alone});
  EXPECT_EQ(total, total_alone);
  EXPECT_EQ(best.item<float>(), x.max().item<float>());
  EXPECT_LT(relative_difference(weights, (x - x.max()).exp()), 1e-6);
  EXPECT_NEAR(total / weights.to(torch::kFloat64).sum().item<double>(), 1.0, 1e-6);
  return {{weights}};
}

Outputs panels(const Table& kernels, torch::Dtype dtype, int64_t depth) {
  torch::manual_seed(8);
  const int64_t columns = depth / 2 + 31;
  const Tensor weight = torch::randn({columns, depth}).to(dtype), bias = torch::randn({columns});
  const Tensor packed = torch::full({panel_values(columns, depth)}, std::nan(""), torch::kBFloat16);
  const int64_t count = (columns + kPanelColumns - 1) / kPanelColumns;
  kernels.pack_panels({columns, depth, weight.data_ptr(), packed.data_ptr(), type_of(dtype)}, 0, count);
  Outputs outputs;
  for (const int64_t rows : {1, 3, 4, 11, 12, 25}) {
    const Tensor x = torch::randn({rows, depth}).to(torch::kBFloat16);
    const Tensor y = torch::full({rows, columns}, std::nan(""), torch::kBFloat16);
    kernels.packed_product(
        {rows, depth, columns, x.data_ptr(), packed.data_ptr(), bias.data_ptr<float>(), y.data_ptr()}, 0, count);
    const Tensor exact = at::linear(x.to(torch::kFloat64), weight.to(torch::kBFloat16).to(torch::kFloat64), bias.to(torch::kFloat64));
    EXPECT_LT(relative_difference(y, exact), 4e-3) << rows << " rows";
    outputs.tensors.push_back(y);
  }
  return outputs;
}

TEST(Kernels, EveryInstructionSetGivesTheNumbersOfThePortableOne) {
  const Table& portable = table_at(0);
  EXPECT_STREQ(portable.name, "portable");
  for (int64_t i = 1; i < num_tables(); ++i) {
    const Table& fast = table_at(i);
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const double bound = dtype == torch::kFloat32 ? 1e-5 : 1.6e-2;
      for (const int64_t size : {2, 8, 18, 40, 64, 130}) {
        SCOPED_TRACE(fmt::format("{} size {} {}", fast.name, size, int(dtype)));
        const auto compare = [&](const Outputs& actual, const Outputs& expected) {
          for (std::size_t t = 0; t < expected.tensors.size(); ++t) {
            EXPECT_LT(relative_difference(actual.tensors[t], expected.tensors[t]), bound) << "tensor " << t;
          }
        };
        compare(attention(fast, dtype, size, true), attention(portable, dtype, size, true));
        compare(attention(fast, dtype, size, false), attention(portable, dtype, size, false));
        compare(norm(fast, dtype, size), norm(portable, dtype, size));
        compare(elementwise(fast, dtype, size + 5), elementwise(portable, dtype, size + 5));
        compare(decoding(fast, dtype, size), decoding(portable, dtype, size));
        compare(softmax_row(fast, size + 1021), softmax_row(portable, size + 1021));
        compare(panels(fast, dtype, size + 1), panels(portable, dtype, size + 1));
      }
    }
  }
}

// Products long and wide enough for whole groups of rows and several blocks of panels, also when two threads divide the panels.
TEST(Kernels, WideProductsGiveEveryRowWhatItGetsAlone) {
  torch::manual_seed(9);
  const int64_t depth = 4098, columns = 170, rows = 71;
  const int64_t count = (columns + kPanelColumns - 1) / kPanelColumns;
  const Tensor weight = torch::randn({columns, depth}).to(torch::kBFloat16), bias = torch::randn({columns});
  const Tensor x = torch::randn({rows, depth}).to(torch::kBFloat16);
  const Tensor exact = at::linear(x.to(torch::kFloat64), weight.to(torch::kFloat64), bias.to(torch::kFloat64));
  for (int64_t i = 0; i < num_tables(); ++i) {
    const Table& kernels = table_at(i);
    SCOPED_TRACE(kernels.name);
    const Tensor packed = torch::empty({panel_values(columns, depth)}, torch::kBFloat16);
    kernels.pack_panels({columns, depth, weight.data_ptr(), packed.data_ptr(), Type::kBfloat16}, 0, count);
    const Tensor y = torch::full({rows, columns}, std::nan(""), torch::kBFloat16);
    const PackedProduct args = {rows, depth, columns, x.data_ptr(), packed.data_ptr(), bias.data_ptr<float>(), y.data_ptr()};
    kernels.packed_product(args, 0, 4);
    kernels.packed_product(args, 4, count);
    EXPECT_LT(relative_difference(y, exact), 4e-3);
    for (const int64_t row : {0, 31, 40, 63, 64, 70}) {
      const Tensor alone = torch::full({1, columns}, std::nan(""), torch::kBFloat16);
      const Tensor own = x[row].contiguous();
      kernels.packed_product({1, depth, columns, own.data_ptr(), packed.data_ptr(), bias.data_ptr<float>(), alone.data_ptr()}, 0, count);
      EXPECT_TRUE(torch::equal(alone[0], y[row])) << "row " << row;
    }
  }
}

}  // namespace
}  // namespace pocketvlm::kernels
