#include "trainer/peak_speed.h"

#include <ATen/ops/mm.h>

#include <algorithm>
#include <chrono>

namespace pocketvlm {

double measured_peak(torch::Device device, torch::Dtype dtype) {
  const torch::NoGradGuard no_grad;
  const int64_t size = device.is_cuda() ? 8192 : 1024;
  const auto options = torch::TensorOptions().device(device).dtype(dtype);
  const int products = device.is_cuda() ? 8 : 1;  // queued together: a GPU takes about as long for one as for telling it to
  const torch::Tensor a = torch::ones({size, size}, options), b = torch::ones({size, size}, options);
  torch::Tensor result = torch::empty_like(a);
  double best = 0;
  for (int i = 0; i < 4; ++i) {  // the first one sets up
    const auto begin = std::chrono::steady_clock::now();
    for (int j = 0; j < products; ++j) at::mm_out(result, a, b);
    result[0][0].item<float>();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, products * 2.0 * static_cast<double>(size * size * size) / seconds);
  }
  return best;
}

}  // namespace pocketvlm
