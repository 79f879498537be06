#pragma once

#include "model/kernels/attention_body.h"
#include "model/kernels/decode_body.h"
#include "model/kernels/elementwise_body.h"
#include "model/kernels/product_body.h"

/// The table of the instruction set that the including file is compiled for.
namespace pocketvlm::kernels {
namespace {

template <typename Args>
using RangeKernel = void (*)(const Args&, int64_t, int64_t);
template <typename Args>
using ScratchKernel = void (*)(const Args&, int64_t, int64_t, float*);

/// Picks the kernel of the arguments' type.
template <typename Args, RangeKernel<Args> kFloatKernel, RangeKernel<Args> kBf16Kernel>
void by_type(const Args& a, int64_t begin, int64_t end) {
  (a.type == Type::kFloat ? kFloatKernel : kBf16Kernel)(a, begin, end);
}
template <typename Args, ScratchKernel<Args> kFloatKernel, ScratchKernel<Args> kBf16Kernel>
void by_type(const Args& a, int64_t begin, int64_t end, float* scratch) {
  (a.type == Type::kFloat ? kFloatKernel : kBf16Kernel)(a, begin, end, scratch);
}

void norm_forward(const NormForward& a, int64_t begin, int64_t end) {
  if (a.x_type == Type::kFloat) {
    (a.type == Type::kFloat ? norm_forward_rows<float, float> : norm_forward_rows<float, Bf16>)(a, begin, end);
  } else {
    (a.type == Type::kFloat ? norm_forward_rows<Bf16, float> : norm_forward_rows<Bf16, Bf16>)(a, begin, end);
  }
}
void norm_backward(const NormBackward& a, int64_t begin, int64_t end) {
  if (a.x_type == Type::kFloat) {
    (a.type == Type::kFloat ? norm_backward_blocks<float, float> : norm_backward_blocks<float, Bf16>)(a, begin, end);
  } else {
    (a.type == Type::kFloat ? norm_backward_blocks<Bf16, float> : norm_backward_blocks<Bf16, Bf16>)(a, begin, end);
  }
}

constexpr Table make_table(const char* name) {
  return {name,
          norm_forward,
          norm_backward,
          by_type<AddBranch, add_branch_range<float>, add_branch_range<Bf16>>,
          by_type<ScaleTo, scale_to_range<float>, scale_to_range<Bf16>>,
          by_type<Swiglu, swiglu_forward_rows<float>, swiglu_forward_rows<Bf16>>,
          by_type<Swiglu, swiglu_backward_rows<float>, swiglu_backward_rows<Bf16>>,
          by_type<SigmoidGate, sigmoid_gate_forward_range<float>, sigmoid_gate_forward_range<Bf16>>,
          by_type<SigmoidGate, sigmoid_gate_backward_range<float>, sigmoid_gate_backward_range<Bf16>>,
          by_type<Rotary, rotary_tokens<float>, rotary_tokens<Bf16>>,
          attention_scratch_floats,
          by_type<Attention, attention_forward_items<float>, attention_forward_items<Bf16>>,
          by_type<Attention, attention_backward_items<float>, attention_backward_items<Bf16>>,
          by_type<LogitBlock, log_sum_rows<float>, log_sum_rows<Bf16>>,
          by_type<LogitBlock, logit_gradient_rows<float>, logit_gradient_rows<Bf16>>,
          decode_scratch_floats,
          by_type<DecodeAttention, decode_items<float>, decode_items<Bf16>>,
          exp_row,
          by_type<PackPanels, pack_panels<float>, pack_panels<Bf16>>,
          packed_product};
}

}  // namespace
}  // namespace pocketvlm::kernels
