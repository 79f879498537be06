#pragma once

#include "model/kernels/cuda/device_kernels.h"

/// What the .cu files give to device_table.cc.
namespace pocketvlm::kernels::device {

void norm_forward(const NormForward& args, int64_t rows, Stream stream);
void norm_backward(const NormBackward& args, int64_t blocks, Stream stream);
void add_branch(const AddBranch& args, int64_t count, Stream stream);
void scale_to(const ScaleTo& args, int64_t count, Stream stream);
void swiglu_forward(const Swiglu& args, int64_t rows, Stream stream);
void swiglu_backward(const Swiglu& args, int64_t rows, Stream stream);
void rotary(const Rotary& args, int64_t tokens, Stream stream);
void log_sum_block(const LogitBlock& args, int64_t rows, Stream stream);
void logit_gradient_block(const LogitBlock& args, int64_t rows, Stream stream);
void adamw(const Adamw& args, int64_t tensors, Stream stream);

}  // namespace pocketvlm::kernels::device
