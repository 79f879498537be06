#include "model/kernel_calls.h"

#ifdef POCKETVLM_CUDA

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace pocketvlm {

void on_stream_of(const torch::Tensor& x, const std::function<void(kernels::Stream)>& launch) {
  const c10::cuda::CUDAGuard guard(x.device());
  launch(c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace pocketvlm

#endif
