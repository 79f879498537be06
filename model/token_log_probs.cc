#include "model/token_log_probs.h"

#include <torch/csrc/autograd/custom_function.h>

namespace pocketvlm {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Rows of the vocabulary per product: the float32 logits of one block stay near 16 MB, and whole small
/// vocabularies are one block.
int64_t block_size(int64_t rows, int64_t vocab) {
  const int64_t wanted = (int64_t{4} << 20) / std::max<int64_t>(rows, 1);
  return std::min(vocab, std::max<int64_t>(1024, wanted / 64 * 64));
}

/// Where the targets of a block lie in it, and a mask of the rows that have theirs there.
struct BlockTargets {
  Tensor columns;  // [rows, 1], clamped into the block
  Tensor inside;   // [rows, 1] bool
};

BlockTargets block_targets(const Tensor& targets, int64_t begin, int64_t count) {
  const Tensor shifted = (targets - begin).unsqueeze(1);
  return {shifted.clamp(0, count - 1), (shifted >= 0).logical_and(shifted < count)};
}

struct TokenLogProbs : torch::autograd::Function<TokenLogProbs> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& targets) {
    at::AutoGradMode no_graph(false);
    const int64_t vocab = weight.size(0);
    const int64_t block = block_size(x.size(0), vocab);
    Tensor log_sum = torch::full({x.size(0)}, -std::numeric_limits<float>::infinity(), x.options().dtype(torch::kFloat32));
    Tensor picked = torch::zeros_like(log_sum);
    for (int64_t begin = 0; begin < vocab; begin += block) {
      const int64_t count = std::min(block, vocab - begin);
      const Tensor rows = weight.narrow(0, begin, count).to(x.scalar_type());
      const Tensor logits = torch::mm(x, rows.t()).to(torch::kFloat32);
      log_sum = torch::logaddexp(log_sum, torch::logsumexp(logits, 1));
      const auto [columns, inside] = block_targets(targets, begin, count);
      picked += (logits.gather(1, columns) * inside).squeeze(1);
    }
    context->save_for_backward({x, weight, targets, log_sum});
    return picked - log_sum;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &targets = saved[2], &log_sum = saved[3];
    const bool needs_x = context->needs_input_grad(0);
    const bool needs_weight = context->needs_input_grad(1);
    const Tensor grad = grads[0].to(torch::kFloat32).unsqueeze(1);
    const int64_t vocab = weight.size(0);
    const int64_t block = block_size(x.size(0), vocab);
    Tensor grad_x;
    Tensor grad_weight = needs_weight ? torch::empty_like(weight) : Tensor();
    for (int64_t begin = 0; begin < vocab; begin += block) {
      const int64_t count = std::min(block, vocab - begin);
      const Tensor rows = weight.narrow(0, begin, count).to(x.scalar_type());
      // d log p[target] / d logit = [target] - softmax
      Tensor slope = torch::mm(x, rows.t()).to(torch::kFloat32).sub_(log_sum.unsqueeze(1)).exp_().neg_();
      const auto [columns, inside] = block_targets(targets, begin, count);
      slope.scatter_add_(1, columns, inside.to(torch::kFloat32));
      slope = slope.mul_(grad).to(x.scalar_type());
      if (needs_x) {
        const Tensor part = torch::mm(slope, rows).to(torch::kFloat32);
        grad_x = grad_x.defined() ? grad_x.add_(part) : part;
      }
      if (needs_weight) grad_weight.narrow(0, begin, count).copy_(torch::mm(slope.t(), x));
    }
    return {needs_x ? grad_x.to(x.scalar_type()) : Tensor(), grad_weight, Tensor()};
  }
};

}  // namespace

torch::Tensor token_log_probs(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& targets) {
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1) &&
                        targets.dim() == 1 && targets.size(0) == x.size(0));
  return TokenLogProbs::apply(x, weight, targets);
}

}  // namespace pocketvlm
