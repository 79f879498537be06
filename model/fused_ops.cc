#include "model/fused_ops.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numbers>

#include "model/kernel_calls.h"

namespace pocketvlm {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

float* floats(const Tensor& x) { return x.defined() ? x.data_ptr<float>() : nullptr; }
void* bytes(const Tensor& x) { return x.defined() ? x.data_ptr() : nullptr; }

/// turn_heads into a tensor of its own.
Tensor turned_heads(const Tensor& x, const RotaryTable& table, int64_t rotated, bool inverse) {
  const Tensor input = x.contiguous(), result = torch::empty_like(input);
  turn_heads(input, table, rotated, inverse, result);
  return result;
}

int64_t rows_of(const Tensor& x) { return x.size(-1) == 0 ? 0 : x.numel() / x.size(-1); }

Tensor norm_operators(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, torch::Dtype out) {
  const Tensor f = x.to(torch::kFloat32);
  if (bias.defined()) return at::layer_norm(f, {f.size(-1)}, weight, bias, eps).to(out);
  return (f * torch::rsqrt(f.square().mean(-1, true) + eps) * weight).to(out);
}

/// Arguments x, branch (may be undefined), weight, bias (undefined: RMSNorm). Results: normed, and with a branch also the sum.
struct Norm : torch::autograd::Function<Norm> {
  static variable_list forward(AutogradContext* context,
                               const Tensor& x,
                               const std::optional<Tensor>& given_branch,
                               const Tensor& weight,
                               const std::optional<Tensor>& given_bias,
                               double scale,
                               double eps,
                               torch::Dtype out) {
    const Tensor branch = given_branch.value_or(Tensor());
    const Tensor bias = given_bias.value_or(Tensor());
    const Tensor input = x.contiguous();
    const Tensor added = branch.defined() ? branch.contiguous() : Tensor();
    TORCH_INTERNAL_ASSERT(weight.device() == input.device() && (!added.defined() || added.device() == input.device()));
    const int64_t rows = rows_of(input);
    const Tensor sum = added.defined() ? torch::empty_like(input) : Tensor();
    const Tensor normed = torch::empty(input.sizes(), input.options().dtype(out));
    const Tensor inverse = torch::empty({rows}, input.options().dtype(torch::kFloat32));
    const Tensor mean = bias.defined() ? torch::empty_like(inverse) : Tensor();
    const kernels::NormForward args = {.size = input.size(-1),
                                       .eps = static_cast<float>(eps),
                                       .x = bytes(input),
                                       .x_type = kernel_type(input.scalar_type()),
                                       .branch = bytes(added),
                                       .scale = static_cast<float>(scale),
                                       .sum = floats(sum),
                                       .weight = floats(weight),
                                       .bias = floats(bias),
                                       .y = bytes(normed),
                                       .mean = floats(mean),
                                       .inverse = floats(inverse),
                                       .type = kernel_type(out)};
    run_rows(input, kernels::table().norm_forward, &kernels::DeviceTable::norm_forward, args, rows, input.size(-1));
    context->save_for_backward({sum.defined() ? sum : input, weight, mean, inverse});
    context->saved_data["scale"] = scale;
    context->saved_data["branch"] = added.defined();
    context->set_materialize_grads(false);
    return added.defined() ? variable_list{normed, sum} : variable_list{normed};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &mean = saved[2], &inverse = saved[3];
    const bool has_branch = context->saved_data["branch"].toBool();
    const double scale = context->saved_data["scale"].toDouble();
    const Tensor grad_sum = grads.size() > 1 && grads[1].defined() ? grads[1].contiguous() : Tensor();
    variable_list result(7);
    if (!grads[0].defined()) {
      if (!grad_sum.defined()) return result;
      result[0] = grad_sum;
      if (has_branch) result[1] = grad_sum * scale;
      return result;
    }
    const Tensor grad_y = grads[0].contiguous();
    const int64_t rows = rows_of(x);
    const int64_t size = x.size(-1);
    const int64_t blocks = (rows + kernels::kNormBlock - 1) / kernels::kNormBlock;
    const auto partial = [&](bool wanted) { return wanted ? torch::empty({blocks, size}, weight.options()) : Tensor(); };
    const Tensor grad_x = context->needs_input_grad(0) ? torch::empty_like(x) : Tensor();
    const Tensor grad_branch =
        has_branch && context->needs_input_grad(1) ? torch::empty(x.sizes(), grad_y.options()) : Tensor();
    // needs_input_grad counts the tensors that were given, not the arguments.
    const std::size_t weight_place = has_branch ? 2 : 1;
    const Tensor grad_weight = partial(context->needs_input_grad(weight_place));
    const Tensor grad_bias = partial(mean.defined() && context->needs_input_grad(weight_place + 1));
    const kernels::NormBackward args = {.rows = rows,
                                        .size = size,
                                        .x = bytes(x),
                                        .x_type = kernel_type(x.scalar_type()),
                                        .weight = floats(weight),
                                        .mean = floats(mean),
                                        .inverse = floats(inverse),
                                        .grad_y = bytes(grad_y),
                                        .grad_sum = floats(grad_sum),
                                        .grad_x = bytes(grad_x),
                                        .grad_branch = bytes(grad_branch),
                                        .scale = static_cast<float>(scale),
                                        .grad_weight = floats(grad_weight),
                                        .grad_bias = floats(grad_bias),
                                        .type = kernel_type(grad_y.scalar_type())};
    run_rows(x, kernels::table().norm_backward, &kernels::DeviceTable::norm_backward, args, blocks, kernels::kNormBlock * size);
    result[0] = grad_x;
    result[1] = grad_branch;
    if (grad_weight.defined()) result[2] = grad_weight.sum(0);
    if (grad_bias.defined()) result[3] = grad_bias.sum(0);
    return result;
  }
};

/// An autograd function refuses undefined tensors, but takes absent ones.
std::optional<Tensor> given(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

struct AddBranch : torch::autograd::Function<AddBranch> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& branch, double scale) {
    const Tensor base = x.contiguous();
    const Tensor added = branch.contiguous();
    TORCH_INTERNAL_ASSERT(added.device() == base.device());
    const Tensor out = torch::empty_like(base);
    const kernels::AddBranch args = {.x = floats(base),
                                     .branch = bytes(added),
                                     .scale = static_cast<float>(scale),
                                     .out = floats(out),
                                     .type = kernel_type(added.scalar_type())};
    run_rows(base, kernels::table().add_branch, &kernels::DeviceTable::add_branch, args, base.numel(), 1);
    context->saved_data["scale"] = scale;
    context->saved_data["type"] = static_cast<int64_t>(branch.scalar_type());
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const double scale = context->saved_data["scale"].toDouble();
    const auto dtype = static_cast<torch::Dtype>(context->saved_data["type"].toInt());
    Tensor grad_branch;
    if (context->needs_input_grad(1)) {
      if (dtype == torch::kFloat32 && scale == 1.0) {
        grad_branch = grads[0];
      } else {
        const Tensor grad = grads[0].contiguous();
        grad_branch = torch::empty(grad.sizes(), grad.options().dtype(dtype));
        const kernels::ScaleTo args = {.x = floats(grad),
                                       .scale = static_cast<float>(scale),
                                       .out = bytes(grad_branch),
                                       .type = kernel_type(dtype)};
        run_rows(grad, kernels::table().scale_to, &kernels::DeviceTable::scale_to, args, grad.numel(), 1);
      }
    }
    return {grads[0], grad_branch, Tensor()};
  }
};

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& gate_up) {
    const Tensor input = gate_up.contiguous();
    const int64_t ffn = input.size(-1) / 2;
    const Tensor y = torch::empty({input.size(0), ffn}, input.options());
    kernels::Swiglu args = {};
    args.ffn = ffn;
    args.gate_up = bytes(input);
    args.y = bytes(y);
    args.type = kernel_type(input.scalar_type());
    run_rows(input, kernels::table().swiglu_forward, &kernels::DeviceTable::swiglu_forward, args, input.size(0), 2 * ffn);
    context->save_for_backward({input});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Tensor input = context->get_saved_variables()[0];
    const Tensor grad_y = grads[0].contiguous();
    const Tensor grad = torch::empty_like(input);
    kernels::Swiglu args = {};
    args.ffn = input.size(-1) / 2;
    args.gate_up = bytes(input);
    args.grad_y = bytes(grad_y);
    args.grad_gate_up = bytes(grad);
    args.type = kernel_type(input.scalar_type());
    run_rows(input, kernels::table().swiglu_backward, &kernels::DeviceTable::swiglu_backward, args, input.size(0), 4 * args.ffn);
    return {grad};
  }
};

struct RotateHeads : torch::autograd::Function<RotateHeads> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t rotated) {
    context->save_for_backward({cosine, sine});
    context->saved_data["rotated"] = rotated;
    return turned_heads(x, {cosine, sine}, rotated, /*inverse=*/false);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const int64_t rotated = context->saved_data["rotated"].toInt();
    return {turned_heads(grads[0], {saved[0], saved[1]}, rotated, /*inverse=*/true), Tensor(), Tensor(), Tensor()};
  }
};

struct SigmoidGateFunction : torch::autograd::Function<SigmoidGateFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, double linear, double cubic) {
    const Tensor input = x.contiguous();
    const Tensor y = torch::empty_like(input);
    kernels::SigmoidGate args = arguments(input, linear, cubic);
    args.y = bytes(y);
    run_rows(kernels::table().sigmoid_gate_forward, args, input.numel(), 1);
    context->save_for_backward({input});
    context->saved_data["linear"] = linear;
    context->saved_data["cubic"] = cubic;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Tensor input = context->get_saved_variables()[0];
    const Tensor grad_y = grads[0].contiguous();
    const Tensor grad = torch::empty_like(input);
    kernels::SigmoidGate args =
        arguments(input, context->saved_data["linear"].toDouble(), context->saved_data["cubic"].toDouble());
    args.grad_y = bytes(grad_y);
    args.grad_x = bytes(grad);
    run_rows(kernels::table().sigmoid_gate_backward, args, input.numel(), 1);
    return {grad, Tensor(), Tensor()};
  }

 private:
  static kernels::SigmoidGate arguments(const Tensor& x, double linear, double cubic) {
    kernels::SigmoidGate args = {};
    args.linear = static_cast<float>(linear);
    args.cubic = static_cast<float>(cubic);
    args.x = bytes(x);
    args.type = kernel_type(x.scalar_type());
    return args;
  }
};

}  // namespace

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps, torch::Dtype out) {
  if (!kernels_take(x)) return norm_operators(x, weight, {}, eps, out);
  return Norm::apply(x, given(Tensor()), weight, given(Tensor()), 1.0, eps, out)[0];
}

torch::Tensor layer_norm(const torch::Tensor& x,
                         const torch::Tensor& weight,
                         const torch::Tensor& bias,
                         double eps,
                         torch::Dtype out) {
  if (!kernels_take(x)) return norm_operators(x, weight, bias, eps, out);
  return Norm::apply(x, given(Tensor()), weight, given(bias), 1.0, eps, out)[0];
}

torch::Tensor add_branch(const torch::Tensor& x, const torch::Tensor& branch, double scale) {
  if (!kernels_take(x) || !kernels_take(branch) || x.scalar_type() != torch::kFloat32) {
    return at::add(x, branch.to(torch::kFloat32), scale);
  }
  return AddBranch::apply(x, branch, scale);
}

NormedSum add_norm(const torch::Tensor& x,
                   const torch::Tensor& branch,
                   double scale,
                   const torch::Tensor& weight,
                   const torch::Tensor& bias,
                   double eps,
                   torch::Dtype out) {
  if (!kernels_take(x) || x.scalar_type() != torch::kFloat32 || branch.scalar_type() != out) {
    const Tensor sum = add_branch(x, branch, scale);
    return {sum, norm_operators(sum, weight, bias, eps, out)};
  }
  const variable_list results = Norm::apply(x, given(branch), weight, given(bias), scale, eps, out);
  return {results[1], results[0]};
}

void turn_heads(const torch::Tensor& x, const RotaryTable& table, int64_t rotated, bool inverse, const torch::Tensor& out) {
  TORCH_INTERNAL_ASSERT(x.sizes() == out.sizes() && x.scalar_type() == out.scalar_type() &&
                        table.cosine.device() == x.device() && out.device() == x.device() && table.cosine.is_contiguous() &&
                        table.sine.is_contiguous());
  for (const torch::Tensor& tensor : {x, out}) {
    TORCH_INTERNAL_ASSERT(tensor.stride(2) == 1 && (tensor.size(1) == 1 || tensor.stride(1) == tensor.size(2)));
  }
  const kernels::Rotary args = {.heads = rotated,
                                .passed = x.size(1) - rotated,
                                .head_dim = x.size(2),
                                .x = bytes(x),
                                .x_stride = x.stride(0),
                                .out = bytes(out),
                                .out_stride = out.stride(0),
                                .cosine = floats(table.cosine),
                                .sine = floats(table.sine),
                                .inverse = inverse,
                                .type = kernel_type(x.scalar_type())};
  run_rows(x, kernels::table().rotary, &kernels::DeviceTable::rotary, args, x.size(0), x.size(1) * x.size(2));
}

RotaryTable rotary_table(const torch::Tensor& position_ids, int64_t head_dim, double theta, double scaling) {
  const Tensor exponents =
      torch::arange(0, head_dim, 2, position_ids.options().dtype(torch::kFloat32)) / static_cast<double>(head_dim);
  const Tensor frequencies = 1.0 / torch::pow(theta, exponents);
  const Tensor positions = position_ids.to(torch::kFloat32) / scaling;
  const Tensor angles = positions.unsqueeze(1) * frequencies.unsqueeze(0);
  return {angles.cos(), angles.sin()};
}

torch::Tensor rotate_heads(const torch::Tensor& x, const RotaryTable& table, int64_t rotated) {
  const int64_t half = x.size(2) / 2;
  if (kernels_take(x)) {
    if (!(torch::GradMode::is_enabled() && x.requires_grad())) return turned_heads(x, table, rotated, /*inverse=*/false);
    if (x.is_cuda()) return RotateHeads::apply(x, table.cosine, table.sine, rotated);
  }
  const Tensor cosine = table.cosine.unsqueeze(1);
  const Tensor sine = table.sine.unsqueeze(1);
  const Tensor turned = x.narrow(1, 0, rotated).to(torch::kFloat32);
  const Tensor low = turned.narrow(2, 0, half);
  const Tensor high = turned.narrow(2, half, half);
  const Tensor result = torch::cat({low * cosine - high * sine, high * cosine + low * sine}, 2).to(x.scalar_type());
  if (rotated == x.size(1)) return result;
  return torch::cat({result, x.narrow(1, rotated, x.size(1) - rotated)}, 1);
}

torch::Tensor swiglu(const torch::Tensor& gate_up) {
  if (kernels_take(gate_up) && gate_up.dim() == 2) return SwigluFunction::apply(gate_up);
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

torch::Tensor gelu_tanh(const torch::Tensor& x) {
  if (!cpu_kernels_take(x)) return at::gelu(x, "tanh");
  // 0.5 (1 + tanh u) = sigmoid(2 u)
  const double linear = 2.0 * std::sqrt(2.0 / std::numbers::pi);
  return SigmoidGateFunction::apply(x, linear, linear * 0.044715);
}

torch::Tensor quick_gelu(const torch::Tensor& x) {
  if (!cpu_kernels_take(x)) return x * torch::sigmoid(1.702 * x);
  return SigmoidGateFunction::apply(x, 1.702, 0.0);
}

}  // namespace pocketvlm
