#pragma once

#include "model/kernels/kernels.h"

struct CUstream_st;  // what CUDA's cudaStream_t points to

/// The elementwise kernels on a GPU, without LibTorch: arguments and results as the CPU's (kernels.h), but pointers into device
/// memory. Each is started on a stream of the current device and may run on when the call has returned; the caller asks CUDA for
/// errors of starting. Sums are float32 in a fixed order: the same input gives the same bits.
namespace pocketvlm::kernels {

using Stream = CUstream_st*;

/// One weight under AdamW; all float32, contiguous.
struct AdamwTensor {
  float* weight;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t count;
};

/// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2) for many tensors.
struct Adamw {
  const AdamwTensor* tensors;  // in host memory, read before the call returns
  float grad_scale;  // gradients are multiplied by it first
  float avg_share;   // of the new gradient in exp_avg, 1 - beta1
  float beta2;
  float sq_share;    // 1 - beta2, rounded after the difference
  float kept;        // of the weight: 1 - learning_rate * weight_decay
  float step_size;   // learning_rate / (1 - beta1^step)
  float root_correction;  // sqrt(1 - beta2^step)
  float eps;
};

struct DeviceTable {
  void (*norm_forward)(const NormForward&, int64_t rows, Stream);
  void (*norm_backward)(const NormBackward&, int64_t blocks, Stream);
  void (*add_branch)(const AddBranch&, int64_t count, Stream);
  void (*scale_to)(const ScaleTo&, int64_t count, Stream);
  void (*swiglu_forward)(const Swiglu&, int64_t rows, Stream);
  void (*swiglu_backward)(const Swiglu&, int64_t rows, Stream);
  void (*rotary)(const Rotary&, int64_t tokens, Stream);
  void (*log_sum_block)(const LogitBlock&, int64_t rows, Stream);
  void (*logit_gradient_block)(const LogitBlock&, int64_t rows, Stream);
  void (*adamw)(const Adamw&, int64_t tensors, Stream);
};

/// Exists in builds with POCKETVLM_CUDA alone.
const DeviceTable& device_table();

}  // namespace pocketvlm::kernels
