#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <functional>

#include "model/kernels/cuda/device_kernels.h"
#include "model/kernels/kernels.h"

/// Between tensors and the raw kernels of model/kernels.
namespace pocketvlm {

#ifdef POCKETVLM_CUDA
inline constexpr bool kHaveDeviceKernels = true;
#else
inline constexpr bool kHaveDeviceKernels = false;
#endif

inline bool is_kernel_type(torch::Dtype dtype) { return dtype == torch::kFloat32 || dtype == torch::kBFloat16; }

/// Whether kernels that only the CPU has (attention, packed products) can take this tensor: there, float32 or bfloat16.
inline bool cpu_kernels_take(const torch::Tensor& x) { return x.is_cpu() && is_kernel_type(x.scalar_type()); }

/// Whether kernels of a DeviceTable can take this tensor: the same on a GPU, too, where the build has them.
inline bool kernels_take(const torch::Tensor& x) {
  return (x.is_cpu() || (kHaveDeviceKernels && x.is_cuda())) && is_kernel_type(x.scalar_type());
}

inline kernels::Type kernel_type(torch::Dtype dtype) {
  return dtype == torch::kFloat32 ? kernels::Type::kFloat : kernels::Type::kBfloat16;
}

/// Rows a thread takes at least, so that small tensors stay on one thread.
inline int64_t rows_per_thread(int64_t elements_per_row) {
  constexpr int64_t kElements = 1 << 15;
  return std::max<int64_t>(1, kElements / std::max<int64_t>(1, elements_per_row));
}

template <typename Args>
void run_rows(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t rows, int64_t elements_per_row) {
  at::parallel_for(0, rows, rows_per_thread(elements_per_row), [&](int64_t begin, int64_t end) {
    kernel(args, begin, end);
  });
}

/// Calls `launch` with the current stream of the tensor's device, which is the current one meanwhile, and throws what CUDA says about
/// the start. In builds with POCKETVLM_CUDA.
void on_stream_of(const torch::Tensor& x, const std::function<void(kernels::Stream)>& launch);

/// The same for kernels that a GPU has, too: `device_kernel` where x lies on one.
template <typename Args>
void run_rows(const torch::Tensor& x,
              void (*kernel)(const Args&, int64_t, int64_t),
              [[maybe_unused]] void (*kernels::DeviceTable::*device_kernel)(const Args&, int64_t, kernels::Stream),
              const Args& args,
              int64_t rows,
              int64_t elements_per_row) {
#ifdef POCKETVLM_CUDA
  if (x.is_cuda()) {
    on_stream_of(x, [&](kernels::Stream stream) { (kernels::device_table().*device_kernel)(args, rows, stream); });
    return;
  }
#endif
  TORCH_INTERNAL_ASSERT(x.is_cpu());
  run_rows(kernel, args, rows, elements_per_row);
}

/// Runs over items with `scratch` floats for each thread.
template <typename Args>
void run_items(void (*kernel)(const Args&, int64_t, int64_t, float*), const Args& args, int64_t items, int64_t scratch) {
  at::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> memory(new float[static_cast<std::size_t>(scratch)]);
    kernel(args, begin, end, memory.get());
  });
}

}  // namespace pocketvlm
