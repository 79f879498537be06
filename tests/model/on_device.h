#pragma once

#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include "model/kernel_calls.h"

namespace pocketvlm {

/// A test whose body runs on the CPU and, in builds with POCKETVLM_CUDA on a machine with one, on a GPU: what shows there that the
/// body can fail shows it here.
class OnDevice : public testing::TestWithParam<torch::DeviceType> {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    if (GetParam() == torch::kCPU) return;
    if (!kHaveDeviceKernels) GTEST_SKIP() << "built without POCKETVLM_CUDA";
    if (!torch::cuda::is_available()) GTEST_SKIP() << "this machine has no CUDA device";
  }

  torch::Device device() const { return GetParam() == torch::kCPU ? torch::Device(torch::kCPU) : torch::Device(torch::kCUDA, 0); }

  torch::Tensor moved(const torch::Tensor& host) const { return host.detach().to(device()); }

  /// A copy that learns; `shifted` begins one element behind what the allocator gave, so that no wide load fits.
  torch::Tensor leaf(const torch::Tensor& host, bool shifted = false) const {
    const torch::Tensor memory = torch::empty({host.numel() + 1}, host.options().device(device()));
    const torch::Tensor values = memory.narrow(0, shifted ? 1 : 0, host.numel()).view(host.sizes()).detach();
    values.copy_(host.detach());
    return values.set_requires_grad(true);
  }
};

/// The same numbers in float64 on the CPU, as something that learns.
inline torch::Tensor exact_leaf(const torch::Tensor& x) {
  return x.detach().to(torch::kCPU, torch::kFloat64).clone().set_requires_grad(true);
}

inline std::string device_name(const testing::TestParamInfo<torch::DeviceType>& info) {
  return info.param == torch::kCPU ? "cpu" : "cuda";
}

}  // namespace pocketvlm
