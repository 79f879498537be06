#pragma once

#include <torch/types.h>

namespace pocketvlm {

/// log softmax(x W^T)[target] per row, without ever holding large [rows, vocab] logits: blocks of the vocabulary, of which the first
/// 128 MiB are kept for backward and the others computed again. One function for SFT, DPO, reference log-probs and the judge.
///   x        [rows, hidden] (any float dtype)
///   weight   [vocab, hidden] float32
///   targets  [rows] int64, every one in [0, vocab)
///   returns  [rows] float32
torch::Tensor token_log_probs(const torch::Tensor& x,
                              const torch::Tensor& weight,
                              const torch::Tensor& targets);

}  // namespace pocketvlm
