#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

namespace pocketvlm {

/// A named tensor, or a contiguous run of its numbers in row-major order: what one rank keeps of it.
struct TensorSlice {
  std::string name;
  torch::Tensor values;        // the tensor itself, or [n] of its numbers
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t begin = 0;           // first number of the run

  bool is_whole() const { return values.sizes() == torch::IntArrayRef(shape); }
};

inline TensorSlice whole_tensor(std::string name, const torch::Tensor& tensor) {
  return {std::move(name), tensor, tensor.sizes().vec(), 0};
}

}  // namespace pocketvlm
