#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <functional>

namespace pocketvlm {

/// One transformer block as a function of the residual stream, x [tokens, hidden] -> [tokens, hidden]. It owns what it
/// captures: a backward may call it long after the forward returned.
using BlockBody = std::function<torch::Tensor(const torch::Tensor& x)>;

/// Decides how a block is run: as it is, recomputed in backward, or with its weights gathered for the moment of use
/// (trainer/distributed). The model itself knows neither.
using BlockRunner =
    std::function<torch::Tensor(const torch::nn::Module& block, const torch::Tensor& x, const BlockBody& body)>;

/// While one lives on a thread, every block that this thread runs goes through `runner`.
class UseBlockRunner {
 public:
  explicit UseBlockRunner(const BlockRunner& runner);
  ~UseBlockRunner();
  UseBlockRunner(const UseBlockRunner&) = delete;
  UseBlockRunner& operator=(const UseBlockRunner&) = delete;

 private:
  const BlockRunner* before_;
};

/// Runs `body` on x, through the thread's runner when there is one.
torch::Tensor run_block(const torch::nn::Module& block, const torch::Tensor& x, const BlockBody& body);

}  // namespace pocketvlm
