#include "trainer/distributed/flat_bucket.h"

#include <algorithm>

namespace pocketvlm {

void FlatBucket::add(const std::string& name, const torch::Tensor& tensor) {
  items_.push_back({name, tensor, tensor.sizes().vec(), total_, tensor.numel()});
  total_ += tensor.numel();
}

int64_t FlatBucket::part_size() const {
  constexpr int64_t kAlignment = 16;  // numbers: whole cache lines
  const int64_t part = (total_ + ranks_ - 1) / ranks_;
  return (part + kAlignment - 1) / kAlignment * kAlignment;
}

torch::Tensor FlatBucket::flatten(const std::function<torch::Tensor(const torch::Tensor&)>& values) const {
  const torch::NoGradGuard no_grad;
  torch::Tensor flat = torch::zeros({ranks_ * part_size()}, items_.front().tensor.options().requires_grad(false));
  for (const Item& item : items_) {
    const torch::Tensor from = values(item.tensor);
    if (from.defined()) flat.narrow(0, item.begin, item.numbers).copy_(from.reshape({-1}));
  }
  return flat;
}

torch::Tensor FlatBucket::part_of_tensors(int rank) const {
  const torch::NoGradGuard no_grad;
  torch::Tensor part = torch::zeros({part_size()}, items_.front().tensor.options().dtype(torch::kFloat32).requires_grad(false));
  const std::vector<TensorSlice> to = slices(part, rank), from = slices_of_tensors(rank);
  for (std::size_t i = 0; i < to.size(); ++i) torch::Tensor(to[i].values).copy_(from[i].values);
  return part;
}

std::vector<torch::Tensor> FlatBucket::views(const torch::Tensor& flat) const {
  std::vector<torch::Tensor> result;
  for (const Item& item : items_) result.push_back(flat.narrow(0, item.begin, item.numbers).view(item.shape));
  return result;
}

std::vector<TensorSlice> FlatBucket::slices(const torch::Tensor& part, int rank) const {
  std::vector<TensorSlice> result;
  const int64_t first = rank * part_size(), last = first + part_size();
  for (const Item& item : items_) {
    const int64_t begin = std::max(first, item.begin), end = std::min(last, item.begin + item.numbers);
    if (begin >= end) continue;
    result.push_back(
        {item.name, part.detach().narrow(0, begin - first, end - begin), item.shape, begin - item.begin});
  }
  return result;
}

std::vector<TensorSlice> FlatBucket::slices_of_tensors(int rank) const {
  std::vector<TensorSlice> result;
  const int64_t first = rank * part_size(), last = first + part_size();
  for (const Item& item : items_) {
    const int64_t begin = std::max(first, item.begin), end = std::min(last, item.begin + item.numbers);
    if (begin >= end) continue;
    const torch::Tensor row = item.tensor.detach().view({-1});
    result.push_back({item.name, row.narrow(0, begin - item.begin, end - begin), item.shape, begin - item.begin});
  }
  return result;
}

}  // namespace pocketvlm
