#include "model/fused_ops.h"

namespace pocketvlm {

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps, torch::Dtype out) {
  const torch::Tensor f = x.to(torch::kFloat32);
  return (f * torch::rsqrt(f.square().mean(-1, true) + eps) * weight).to(out);
}

torch::Tensor layer_norm(const torch::Tensor& x,
                         const torch::Tensor& weight,
                         const torch::Tensor& bias,
                         double eps,
                         torch::Dtype out) {
  return at::layer_norm(x.to(torch::kFloat32), {x.size(-1)}, weight, bias, eps).to(out);
}

torch::Tensor add_branch(const torch::Tensor& x, const torch::Tensor& branch, double scale) {
  return at::add(x, branch.to(torch::kFloat32), scale);
}

NormedSum add_norm(const torch::Tensor& x,
                   const torch::Tensor& branch,
                   double scale,
                   const torch::Tensor& weight,
                   const torch::Tensor& bias,
                   double eps,
                   torch::Dtype out) {
  const torch::Tensor sum = add_branch(x, branch, scale);
  return {sum, bias.defined() ? layer_norm(sum, weight, bias, eps, out) : rms_norm(sum, weight, eps, out)};
}

RotaryTable rotary_table(const torch::Tensor& position_ids, int64_t head_dim, double theta, double scaling) {
  const torch::Tensor exponents =
      torch::arange(0, head_dim, 2, position_ids.options().dtype(torch::kFloat32)) / static_cast<double>(head_dim);
  const torch::Tensor frequencies = 1.0 / torch::pow(theta, exponents);
  const torch::Tensor positions = position_ids.to(torch::kFloat32) / scaling;
  const torch::Tensor angles = positions.unsqueeze(1) * frequencies.unsqueeze(0);
  return {angles.cos(), angles.sin()};
}

torch::Tensor rotate_heads(const torch::Tensor& x, const RotaryTable& table, int64_t rotated) {
  const int64_t half = x.size(2) / 2;
  const torch::Tensor cosine = table.cosine.unsqueeze(1);
  const torch::Tensor sine = table.sine.unsqueeze(1);
  const torch::Tensor turned = x.narrow(1, 0, rotated).to(torch::kFloat32);
  const torch::Tensor low = turned.narrow(2, 0, half);
  const torch::Tensor high = turned.narrow(2, half, half);
  const torch::Tensor result =
      torch::cat({low * cosine - high * sine, high * cosine + low * sine}, 2).to(x.scalar_type());
  if (rotated == x.size(1)) return result;
  return torch::cat({result, x.narrow(1, rotated, x.size(1) - rotated)}, 1);
}

torch::Tensor swiglu(const torch::Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

}  // namespace pocketvlm
