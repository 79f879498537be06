#include "model/token_log_probs.h"

#include <torch/csrc/autograd/custom_function.h>

#include "model/kernel_calls.h"
#include "model/row_padding.h"

namespace pocketvlm {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Rows of the vocabulary per product: the float32 logits of one block stay near 16 MB, and whole small
/// vocabularies are one block. A GPU has no cache to stay in, but processors to fill: 16 times as much.
int64_t block_size(const Tensor& x, int64_t vocab) {
  const int64_t wanted = (int64_t{x.is_cuda() ? 64 : 4} << 20) / std::max<int64_t>(x.size(0), 1);
  return std::min(vocab, std::max<int64_t>(1024, wanted / 64 * 64));
}

/// Logits that a forward keeps for its backward, in bytes: with them the output layer costs three products instead of four.
/// Blocks beyond it are computed again.
constexpr int64_t kKeptBytes = int64_t{128} << 20;

/// Where the targets of a block lie in it, and a mask of the rows that have theirs there.
struct BlockTargets {
  Tensor columns;  // [rows, 1], clamped into the block
  Tensor inside;   // [rows, 1] bool
};

BlockTargets block_targets(const Tensor& targets, int64_t begin, int64_t count) {
  const Tensor shifted = (targets - begin).unsqueeze(1);
  return {shifted.clamp(0, count - 1), (shifted >= 0).logical_and(shifted < count)};
}

/// One block of logits on its way into the running sums, and back out as gradients.
kernels::LogitBlock logit_block(const Tensor& logits, int64_t begin, const Tensor& targets, const Tensor& log_sum) {
  TORCH_INTERNAL_ASSERT(targets.device() == logits.device());
  kernels::LogitBlock block = {};
  block.count = logits.size(1);
  block.stride = logits.stride(0);
  block.first_id = begin;
  block.targets = targets.data_ptr<int64_t>();
  block.logits = logits.data_ptr();
  block.log_sum = log_sum.data_ptr<float>();
  block.type = kernel_type(logits.scalar_type());
  return block;
}

void add_to_sums(const Tensor& logits, int64_t begin, const Tensor& targets, Tensor& log_sum, Tensor& picked) {
  if (kernels_take(logits)) {
    kernels::LogitBlock block = logit_block(logits, begin, targets, log_sum);
    block.picked = picked.data_ptr<float>();
    run_rows(logits, kernels::table().log_sum_block, &kernels::DeviceTable::log_sum_block, block, logits.size(0), block.count);
    return;
  }
  const Tensor f = logits.to(torch::kFloat32);
  log_sum = torch::logaddexp(log_sum, torch::logsumexp(f, 1));
  const auto [columns, inside] = block_targets(targets, begin, f.size(1));
  picked += (f.gather(1, columns) * inside).squeeze(1);
}

/// d log p[target] / d logit = [target] - softmax, times the gradient of each row; in the logits' dtype.
Tensor logit_gradient(const Tensor& logits, int64_t begin, const Tensor& targets, const Tensor& log_sum, const Tensor& grad) {
  if (kernels_take(logits)) {
    kernels::LogitBlock block = logit_block(logits, begin, targets, log_sum);
    block.grad = grad.data_ptr<float>();
    run_rows(logits, kernels::table().logit_gradient_block, &kernels::DeviceTable::logit_gradient_block, block, logits.size(0), block.count);
    return logits;
  }
  Tensor slope = logits.to(torch::kFloat32).sub_(log_sum.unsqueeze(1)).exp_().neg_();
  const auto [columns, inside] = block_targets(targets, begin, slope.size(1));
  slope.scatter_add_(1, columns, inside.to(torch::kFloat32));
  return slope.mul_(grad.unsqueeze(1)).to(logits.scalar_type());
}

struct TokenLogProbs : torch::autograd::Function<TokenLogProbs> {
  static Tensor forward(
      AutogradContext* context, const Tensor& hidden, const Tensor& weight, const Tensor& ids, bool has_backward) {
    const Tensor x = hidden.contiguous(), targets = ids.contiguous();
    const int64_t vocab = weight.size(0);
    const int64_t block = block_size(x, vocab);
    Tensor log_sum =
        torch::full({x.size(0)}, -std::numeric_limits<float>::infinity(), x.options().dtype(torch::kFloat32));
    Tensor picked = torch::zeros_like(log_sum);
    variable_list saved = {x, weight, targets, log_sum};  // then the kept blocks of logits, in order
    int64_t free_bytes = kKeptBytes;
    for (int64_t begin = 0; begin < vocab; begin += block) {
      const Tensor rows = weight.narrow(0, begin, std::min(block, vocab - begin)).to(x.scalar_type());
      const Tensor logits = torch::mm(x, rows.t());
      add_to_sums(logits, begin, targets, log_sum, picked);
      free_bytes -= static_cast<int64_t>(logits.nbytes());
      if (has_backward && free_bytes >= 0) saved.push_back(logits);
    }
    saved[3] = log_sum;
    context->save_for_backward(saved);
    return picked - log_sum;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &targets = saved[2], &log_sum = saved[3];
    const bool needs_x = context->needs_input_grad(0);
    const bool needs_weight = context->needs_input_grad(1);
    const Tensor grad = grads[0].to(torch::kFloat32).contiguous();
    const int64_t vocab = weight.size(0);
    const int64_t block = block_size(x, vocab);
    Tensor grad_x;
    Tensor grad_weight = needs_weight ? torch::empty_like(weight) : Tensor();
    std::size_t next_kept = 4;
    for (int64_t begin = 0; begin < vocab; begin += block) {
      const int64_t count = std::min(block, vocab - begin);
      const Tensor rows = weight.narrow(0, begin, count).to(x.scalar_type());
      // A copy of what was kept: the gradient overwrites it, and a graph may be walked twice.
      const Tensor logits = next_kept < saved.size() ? saved[next_kept++].clone() : torch::mm(x, rows.t());
      const Tensor slope = logit_gradient(logits, begin, targets, log_sum, grad);
      if (needs_x && block >= vocab) {
        grad_x = torch::mm(slope, rows);
      } else if (needs_x) {
        const Tensor part = torch::mm(slope, rows).to(torch::kFloat32);
        grad_x = grad_x.defined() ? grad_x.add_(part) : part;
      }
      if (needs_weight) grad_weight.narrow(0, begin, count).copy_(torch::mm(slope.t(), x));
    }
    return {needs_x ? grad_x.to(x.scalar_type()) : Tensor(), grad_weight, Tensor(), Tensor()};
  }
};

}  // namespace

torch::Tensor token_log_probs(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& targets) {
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1) &&
                        targets.dim() == 1 && targets.size(0) == x.size(0));
  const bool has_backward = torch::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  const int64_t padding = missing_rows(x, x.size(0));
  return TokenLogProbs::apply(with_zero_rows(x, padding), weight, with_zero_rows(targets, padding), has_backward)
      .narrow(0, 0, x.size(0));
}

}  // namespace pocketvlm
