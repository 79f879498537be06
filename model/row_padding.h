#pragma once

#include <torch/types.h>

namespace pocketvlm {

/// LibTorch's matrix library makes machine code for every number of rows that it meets, and packs have a new one in nearly every
/// step: up to a tenth of a step, and gigabytes of code kept. Rows of zeros up to the next multiple of 64 leave a few
/// numbers; they are a segment of their own, nobody reads them, and their gradients are zero.

/// Rows to add to `rows` of a product of x in compute dtype: none in float32 or on a GPU.
int64_t missing_rows(const torch::Tensor& x, int64_t rows);

/// x [rows, ...] with `count` rows of zeros below.
torch::Tensor with_zero_rows(const torch::Tensor& x, int64_t count);

}  // namespace pocketvlm
