#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>

#include "model/kernels/kernels.h"

/// Between tensors and the raw kernels of model/kernels.
namespace pocketvlm {

/// Whether the kernels can take this tensor: on the CPU, float32 or bfloat16.
inline bool kernels_take(const torch::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16);
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

/// Runs over items with `scratch` floats for each thread.
template <typename Args>
void run_items(void (*kernel)(const Args&, int64_t, int64_t, float*), const Args& args, int64_t items, int64_t scratch) {
  at::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> memory(new float[static_cast<std::size_t>(scratch)]);
    kernel(args, begin, end, memory.get());
  });
}

}  // namespace pocketvlm
