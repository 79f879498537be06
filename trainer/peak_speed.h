#pragma once

#include <torch/types.h>

namespace pocketvlm {

/// Floating-point operations a second of large matrix products on this device, with the threads that LibTorch has now:
/// the best of a few, in a tenth of a second or so on a CPU. What MFU and rooflines are measured against.
double measured_peak(torch::Device device, torch::Dtype dtype);

}  // namespace pocketvlm
