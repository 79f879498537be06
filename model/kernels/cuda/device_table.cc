#include "model/kernels/cuda/device_launches.h"

namespace pocketvlm::kernels {

const DeviceTable& device_table() {
  static const DeviceTable table = {.norm_forward = device::norm_forward,
                                    .norm_backward = device::norm_backward,
                                    .add_branch = device::add_branch,
                                    .scale_to = device::scale_to,
                                    .swiglu_forward = device::swiglu_forward,
                                    .swiglu_backward = device::swiglu_backward,
                                    .rotary = device::rotary,
                                    .log_sum_block = device::log_sum_block,
                                    .logit_gradient_block = device::logit_gradient_block,
                                    .adamw = device::adamw};
  return table;
}

}  // namespace pocketvlm::kernels
