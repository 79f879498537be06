#pragma once

#include <torch/types.h>

namespace pocketvlm {

/// log softmax(x W^T)[target] per row, without ever holding the [rows, vocab] logits: blocks of the vocabulary, recomputed in
/// backward. One function for SFT, DPO, reference log-probs and the judge.
///   x        [rows, hidden] (any float dtype)
///   weight   [vocab, hidden] float32
///   targets  [rows] int64, every one in [0, vocab)
///   returns  [rows] float32
torch::Tensor token_log_probs(const torch::Tensor& x,
                              const torch::Tensor& weight,
                              const torch::Tensor& targets);

}  // namespace pocketvlm
