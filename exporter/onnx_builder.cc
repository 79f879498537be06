#include "exporter/onnx_builder.h"

#include <cmath>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// uint8 = round(x / scale) + zero; zero itself is exact, as padding and ReLU want it.
struct Affine {
  float scale;
  int64_t zero;
};

Affine affine_of(const ValueRange& range) {
  const float low = std::min(range.low, 0.0F), high = std::max(range.high, 0.0F);
  const float scale = high > low ? (high - low) / 255.0F : 1.0F;
  return {scale, std::llround(-low / scale)};
}

/// One scale a row: the largest magnitude becomes 127.
torch::Tensor row_scales(const torch::Tensor& weight) {
  const torch::Tensor largest = weight.flatten(1).abs().amax(1) / 127.0;
  return torch::where(largest > 0, largest, torch::ones_like(largest));
}

torch::Tensor in_float16(const std::string& name, const torch::Tensor& value) {
  const torch::Tensor half = value.to(torch::kFloat16);
  PV_CHECK(torch::isfinite(half).all().item<bool>(), "export: {} holds values beyond 65504, which float16 cannot; export it as int8", name);
  return half;
}

}  // namespace

OnnxBuilder::OnnxBuilder(OnnxGraph& graph, const OnnxVisionForm& form)
    : graph_(graph), form_(form), float_type_(form.precision == "fp16" ? torch::kFloat16 : torch::kFloat32) {}

OnnxHandle OnnxBuilder::add(const std::string& op,
                            const std::string& name,
                            const std::vector<std::string>& inputs,
                            std::vector<int64_t> shape,
                            std::map<std::string, OnnxAttribute> attributes) {
  graph_.nodes.push_back({op, inputs, name, std::move(attributes)});
  return {name, std::move(shape)};
}

std::string OnnxBuilder::store(const std::string& name,
                               torch::Dtype dtype,
                               const std::vector<int64_t>& shape,
                               std::function<torch::Tensor()> value) {
  if (stored_.insert(name).second) graph_.constants.push_back({name, dtype, shape, std::move(value)});
  return name;
}

std::string OnnxBuilder::constant(const std::string& name, const torch::Tensor& value) {
  return store(name, float_type_, value.sizes().vec(), [name, value, type = float_type_] {
    return (type == torch::kFloat16 ? in_float16(name, value) : value.to(type)).contiguous();
  });
}

OnnxHandle OnnxBuilder::reshape(const std::string& name, const OnnxHandle& x, const std::vector<int64_t>& shape) {
  const auto sides = static_cast<int64_t>(shape.size());
  const std::string target =
      store(name + ".shape", torch::kInt64, {sides}, [shape] { return torch::tensor(shape, torch::kInt64); });
  return add("Reshape", name, {x.name, target}, shape);
}

OnnxHandle OnnxBuilder::transpose(const std::string& name, const OnnxHandle& x, const std::vector<int64_t>& order) {
  std::vector<int64_t> shape;
  for (const int64_t axis : order) shape.push_back(x.shape[static_cast<std::size_t>(axis)]);
  return add("Transpose", name, {x.name}, shape, {{"perm", order}});
}

OnnxHandle OnnxBuilder::rows(const std::string& name, const OnnxHandle& x, int64_t begin, int64_t end) {
  const auto number = [&](const char* what, int64_t value) {
    return store(name + what, torch::kInt64, {1}, [value] { return torch::tensor({value}, torch::kInt64); });
  };
  std::vector<int64_t> shape = x.shape;
  shape[0] = end - begin;
  return add("Slice", name, {x.name, number(".begin", begin), number(".end", end), number(".axis", 0)}, shape);
}

OnnxHandle OnnxBuilder::norm(const std::string& name, const OnnxHandle& x, const torch::Tensor& weight, const torch::Tensor& bias, double eps) {
  return add("LayerNormalization", name, {x.name, constant(name + ".weight", weight), constant(name + ".bias", bias)}, x.shape,
             {{"axis", int64_t{-1}}, {"epsilon", static_cast<float>(eps)}});
}

/// x by way of eight bits.
OnnxHandle OnnxBuilder::quantized(const OnnxHandle& x) {
  const auto known = quantized_.find(x.name);
  if (known != quantized_.end()) return known->second;
  const auto range = form_.ranges.find(x.name);
  TORCH_INTERNAL_ASSERT(range != form_.ranges.end(), "no range of ", x.name);
  const Affine affine = affine_of(range->second);
  const std::string scale = store(x.name + ".scale", torch::kFloat32, {}, [affine] { return torch::tensor(affine.scale); });
  const std::string zero = store(x.name + ".zero", torch::kUInt8, {}, [affine] { return torch::tensor(affine.zero, torch::kUInt8); });
  const OnnxHandle stored = add("QuantizeLinear", x.name + ".uint8", {x.name, scale, zero}, x.shape);
  const OnnxHandle result = add("DequantizeLinear", x.name + ".rounded", {stored.name, scale, zero}, x.shape);
  for (const std::string& name : {x.name, result.name}) {  // what is rounded stays as it is
    quantized_[name] = result;
    scales_[name] = affine.scale;
  }
  return result;
}

/// Inputs of Gemm and Conv: the value, the weight and, where there is one, the bias.
std::vector<std::string> OnnxBuilder::operands(const OnnxHandle& x,
                                               const std::string& name,
                                               const torch::Tensor& weight,
                                               const torch::Tensor& bias) {
  if (form_.precision != "int8") {
    std::vector<std::string> inputs = {x.name, constant(name + ".weight", weight)};
    if (bias.defined()) inputs.push_back(constant(name + ".bias", bias));
    return inputs;
  }
  const std::vector<int64_t> channels = {weight.size(0)};
  const std::string input = quantized(x).name;
  const torch::Tensor scales = row_scales(weight);
  const auto dequantized = [&](const std::string& target, const std::string& stored, const torch::Tensor& scale, torch::Dtype type,
                               const std::vector<int64_t>& shape) {
    const std::string by = store(target + ".scale", torch::kFloat32, channels, [scale] { return scale.contiguous(); });
    const std::string zero = store(target + ".zero", type, channels, [channels, type] { return torch::zeros(channels, type); });
    return add("DequantizeLinear", target, {stored, by, zero}, shape, {{"axis", int64_t{0}}}).name;
  };
  const std::string weights = store(name + ".weight.int8", torch::kInt8, weight.sizes().vec(), [weight, scales] {
    std::vector<int64_t> spread(static_cast<std::size_t>(weight.dim()), 1);
    spread[0] = weight.size(0);
    return (weight / scales.view(spread)).round().clamp(-127, 127).to(torch::kInt8).contiguous();
  });
  std::vector<std::string> inputs = {input, dequantized(name + ".weight", weights, scales, torch::kInt8, weight.sizes().vec())};
  if (bias.defined()) {
    const torch::Tensor scale = scales * scales_.at(x.name);  // that of the integer products it is added to
    const std::string rounded = store(name + ".bias.int32", torch::kInt32, channels, [bias, scale] {
      return (bias / scale).round().clamp(-2147483520.0, 2147483520.0).to(torch::kInt32).contiguous();
    });
    inputs.push_back(dequantized(name + ".bias", rounded, scale, torch::kInt32, channels));
  }
  return inputs;
}

OnnxHandle OnnxBuilder::product(const std::string& name, const OnnxHandle& x, const torch::Tensor& weight, const torch::Tensor& bias) {
  const OnnxHandle result =
      add("Gemm", name, operands(x, name, weight, bias), {x.shape[0], weight.size(0)}, {{"transB", int64_t{1}}});
  return form_.precision == "int8" ? quantized(result) : result;
}

OnnxHandle OnnxBuilder::convolution(const std::string& name,
                                    const OnnxHandle& x,
                                    const torch::Tensor& weight,
                                    const torch::Tensor& bias,
                                    int64_t stride,
                                    int64_t padding,
                                    int64_t groups) {
  const int64_t kernel = weight.size(2);
  const auto side = [&](int64_t length) { return (length + 2 * padding - kernel) / stride + 1; };
  const OnnxHandle result = add("Conv", name, operands(x, name, weight, bias), {1, weight.size(0), side(x.shape[2]), side(x.shape[3])},
                                {{"kernel_shape", std::vector<int64_t>{kernel, kernel}},
                                 {"strides", std::vector<int64_t>{stride, stride}},
                                 {"pads", std::vector<int64_t>(4, padding)},
                                 {"group", groups}});
  return form_.precision == "int8" ? quantized(result) : result;
}

}  // namespace pocketvlm
