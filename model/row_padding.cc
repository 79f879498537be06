#include "model/row_padding.h"

#include "model/layers.h"

namespace pocketvlm {

int64_t missing_rows(const torch::Tensor& x, int64_t rows) {
  constexpr int64_t kStep = 64;
  if (!x.is_cpu() || compute_dtype() != torch::kBFloat16) return 0;
  return (kStep - rows % kStep) % kStep;
}

torch::Tensor with_zero_rows(const torch::Tensor& x, int64_t count) {
  if (count == 0) return x;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[0] = count;
  return torch::cat({x, torch::zeros(sizes, x.options())});
}

}  // namespace pocketvlm
