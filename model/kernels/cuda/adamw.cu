#include "model/kernels/cuda/lanes.cuh"

namespace pocketvlm::kernels::device {
namespace {

/// Tensors of one launch: their places travel in its arguments, of which CUDA takes 4 KiB everywhere.
constexpr int kTensors = 48;

struct Batch {
  AdamwTensor tensors[kTensors];
};

/// The grid's second side counts tensors.
__global__ void adamw_step(const Adamw a, const Batch batch) {
  const AdamwTensor& tensor = batch.tensors[blockIdx.y];
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < tensor.count; i += stride) {
    const float grad = tensor.grad[i] * a.grad_scale;
    const float exp_avg = tensor.exp_avg[i] + a.avg_share * (grad - tensor.exp_avg[i]);
    const float exp_avg_sq = a.beta2 * tensor.exp_avg_sq[i] + a.sq_share * grad * grad;
    tensor.exp_avg[i] = exp_avg;
    tensor.exp_avg_sq[i] = exp_avg_sq;
    const float width = sqrtf(exp_avg_sq) / a.root_correction + a.eps;
    tensor.weight[i] = tensor.weight[i] * a.kept - a.step_size * exp_avg / width;
  }
}

}  // namespace

void adamw(const Adamw& args, int64_t tensors, Stream stream) {
  constexpr unsigned int kThreads = 256;
  constexpr int64_t kMostBlocks = 1024;  // a tensor; those that find nothing to do end at once
  for (int64_t begin = 0; begin < tensors; begin += kTensors) {
    const int64_t count = std::min<int64_t>(kTensors, tensors - begin);
    Batch batch = {};
    int64_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      batch.tensors[i] = args.tensors[begin + i];
      largest = std::max(largest, batch.tensors[i].count);
    }
    if (largest == 0) continue;
    const int64_t blocks = std::min((largest + kThreads - 1) / kThreads, kMostBlocks);
    adamw_step<<<dim3(static_cast<unsigned int>(blocks), static_cast<unsigned int>(count)), kThreads, 0, stream>>>(args, batch);
  }
}

}  // namespace pocketvlm::kernels::device
