#pragma once

#include <torch/types.h>

#include <functional>
#include <utility>

namespace pocketvlm {

/// A collective that was started and goes on beside what its rank computes. It owns the tensors it reads and writes; what it
/// reads must not change until wait() returns. One that is never waited for still runs: the other ranks take part in it.
class Exchange {
 public:
  Exchange() = default;
  explicit Exchange(std::function<torch::Tensor()> wait) : wait_(std::move(wait)) {}

  bool started() const { return wait_ != nullptr; }
  /// The result; throws what the collective failed with. On CUDA the device's current stream waits, not the caller. Once.
  torch::Tensor wait() { return std::exchange(wait_, nullptr)(); }

 private:
  std::function<torch::Tensor()> wait_;
};

}  // namespace pocketvlm
