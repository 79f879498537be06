#include "trainer/bench_device.h"

#include <ATen/DeviceAccelerator.h>
#include <torch/cuda.h>

#include <chrono>

#include "base/error.h"
#include "model/kernel_calls.h"

namespace pocketvlm {

torch::Device bench_device(const std::string& name) {
  if (name == "cpu") return torch::kCPU;
  PV_CHECK(kHaveDeviceKernels, "bench: --device {}: this program was built without CUDA; build it with ./scripts/build.sh cuda, or use cpu", name);
  PV_CHECK(torch::cuda::is_available(), "bench: --device {}: no CUDA device is usable here; use cpu", name);
  return {torch::kCUDA, 0};
}

double seconds_on(torch::Device device, const std::function<void()>& work) {
  const auto wait = [&] {
    if (device.is_cuda()) torch::cuda::synchronize(device.index());
  };
  wait();
  const auto begin = std::chrono::steady_clock::now();
  work();
  wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double peak_device_mib(torch::Device device) {
  if (!device.is_cuda()) return 0;
  const auto stats = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  const auto sum = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return static_cast<double>(stats.allocated_bytes[sum].peak) / (1 << 20);
}

}  // namespace pocketvlm
