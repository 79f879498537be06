#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

#include "model/block_runner.h"

namespace pocketvlm {

/// What a block is run for.
enum class Pass {
  kForward,          // nothing follows
  kLearningForward,  // a backward will
  kBackward,
};

/// What a block's weights are made of between uses, and what becomes of their gradients.
struct BlockWeights {
  std::vector<torch::Tensor> parameters;  // the block's own, those that learn
  /// What the graph carries gradients to: the parameters themselves, or the part of their numbers that this rank keeps.
  std::vector<torch::Tensor> kept;
  std::function<void(Pass)> enter;  // before every use, and after it; empty: the weights are always there
  std::function<void()> leave;
  /// Gradients of `parameters` (undefined where there is none) to those of `kept`; empty: they are the same. Undefined: they
  /// are added to those of `kept` without autograd.
  std::function<std::vector<torch::Tensor>(const std::vector<torch::Tensor>&)> reduce;
};

/// Runs `body` without a graph and again, with one, in backward: of a block's activations only its input is kept
/// (activation checkpointing), and its weights are needed at these two moments alone (full sharding). Random draws inside
/// the body are repeated.
///   x        [tokens, hidden]
///   weights  must live until the backward is done
torch::Tensor recomputed_block(const BlockWeights& weights, const torch::Tensor& x, const BlockBody& body);

}  // namespace pocketvlm
