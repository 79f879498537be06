#include "model/block_runner.h"

namespace pocketvlm {
namespace {

thread_local const BlockRunner* current_runner = nullptr;

}  // namespace

UseBlockRunner::UseBlockRunner(const BlockRunner& runner) : before_(current_runner) {
  current_runner = runner ? &runner : nullptr;
}

UseBlockRunner::~UseBlockRunner() { current_runner = before_; }

torch::Tensor run_block(const torch::nn::Module& block, const torch::Tensor& x, const BlockBody& body) {
  return current_runner != nullptr ? (*current_runner)(block, x, body) : body(x);
}

}  // namespace pocketvlm
