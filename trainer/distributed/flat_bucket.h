#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

#include "trainer/tensor_slice.h"

namespace pocketvlm {

/// Tensors laid end to end as one row of float32 that divides evenly among ranks: rank r owns the r-th part, so a part may
/// hold pieces of several tensors, and a tensor may be spread over several parts.
class FlatBucket {
 public:
  explicit FlatBucket(int ranks) : ranks_(ranks) {}

  void add(const std::string& name, const torch::Tensor& tensor);
  bool empty() const { return items_.empty(); }
  int64_t numbers() const { return total_; }   // without padding
  int64_t part_size() const;                   // numbers of one rank, padding included

  /// [ranks * part_size] with every tensor's `values`, zeros where it has none and in the padding.
  torch::Tensor flatten(const std::function<torch::Tensor(const torch::Tensor&)>& values) const;
  /// Rank r's part [part_size] of that row, of the tensors themselves, whatever their dtype is.
  torch::Tensor part_of_tensors(int rank) const;
  /// One view of `flat` for each tensor, in its shape.
  std::vector<torch::Tensor> views(const torch::Tensor& flat) const;
  /// The pieces of the tensors that rank r's part [part_size] holds: views of `part`.
  std::vector<TensorSlice> slices(const torch::Tensor& part, int rank) const;
  /// The same pieces as views of the tensors themselves.
  std::vector<TensorSlice> slices_of_tensors(int rank) const;

  struct Item {
    std::string name;
    torch::Tensor tensor;
    std::vector<int64_t> shape;
    int64_t begin, numbers;  // in the row
  };
  const std::vector<Item>& items() const { return items_; }

 private:
  int ranks_;
  int64_t total_ = 0;
  std::vector<Item> items_;
};

}  // namespace pocketvlm
