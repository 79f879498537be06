#pragma once

#include <torch/types.h>

#include <functional>
#include <string>

namespace pocketvlm {

/// The device that `bench --device` names: cpu, or cuda, the first GPU. Throws Error where this build or machine has none.
torch::Device bench_device(const std::string& name);

/// Seconds that `work` takes until the device has computed all of it; what was queued before does not count.
double seconds_on(torch::Device device, const std::function<void()>& work);

/// Most memory of a GPU that LibTorch's tensors have held at once, in MiB; 0 on the CPU.
double peak_device_mib(torch::Device device);

}  // namespace pocketvlm
