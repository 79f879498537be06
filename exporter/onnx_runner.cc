#include "exporter/onnx_runner.h"

#include <ATen/Functions.h>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// One operation's inputs, in float32 where they are float16, and its attributes.
struct Operation {
  const OnnxNode& node;
  std::vector<torch::Tensor> inputs;

  const torch::Tensor& in(std::size_t i) const { return inputs.at(i); }
  torch::Tensor optional(std::size_t i) const { return i < inputs.size() ? inputs[i] : torch::Tensor(); }
  template <typename T>
  T attribute(const std::string& name, T otherwise) const {
    const auto found = node.attributes.find(name);
    return found == node.attributes.end() ? otherwise : std::get<T>(found->second);
  }
  std::vector<std::int64_t> numbers(const std::string& name) const { return attribute(name, std::vector<std::int64_t>{}); }
};

using Function = torch::Tensor (*)(const Operation&);

std::vector<std::int64_t> as_numbers(const torch::Tensor& x) { return {x.data_ptr<std::int64_t>(), x.data_ptr<std::int64_t>() + x.numel()}; }

/// Scale or zero point along the axis it belongs to.
torch::Tensor spread(const torch::Tensor& x, const torch::Tensor& value, std::int64_t axis) {
  if (value.dim() == 0) return value;
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[static_cast<std::size_t>(axis)] = value.numel();
  return value.view(shape);
}

torch::Tensor quantize(const Operation& op) {
  TORCH_INTERNAL_ASSERT(op.in(2).scalar_type() == torch::kUInt8);
  return ((op.in(0) / op.in(1)).round() + op.in(2).to(torch::kFloat32)).clamp(0, 255).to(torch::kUInt8);  // halves go to even
}

torch::Tensor dequantize(const Operation& op) {
  const std::int64_t axis = op.attribute<std::int64_t>("axis", 1);
  const torch::Tensor zero = spread(op.in(0), op.in(2), axis).to(torch::kFloat32);
  return (op.in(0).to(torch::kFloat32) - zero) * spread(op.in(0), op.in(1), axis);
}

torch::Tensor convolve(const Operation& op) {
  const auto pads = op.numbers("pads");
  return at::conv2d(op.in(0), op.in(1), op.optional(2), op.numbers("strides"), {pads[0], pads[1]}, {1, 1},
                    op.attribute<std::int64_t>("group", 1));
}

torch::Tensor gemm(const Operation& op) {
  TORCH_INTERNAL_ASSERT(op.attribute<std::int64_t>("transB", 0) == 1);
  return at::linear(op.in(0), op.in(1), op.optional(2));
}

torch::Tensor slice(const Operation& op) {
  return op.in(0).slice(as_numbers(op.in(3))[0], as_numbers(op.in(1))[0], as_numbers(op.in(2))[0]);
}

torch::Tensor layer_norm(const Operation& op) {
  return at::layer_norm(op.in(0), {op.in(0).size(-1)}, op.in(1), op.in(2), op.attribute("epsilon", 1e-5F));
}

torch::Tensor hard_sigmoid(const Operation& op) {
  return (op.in(0) * op.attribute("alpha", 0.2F) + op.attribute("beta", 0.5F)).clamp(0, 1);
}

const std::map<std::string, Function>& functions() {
  static const std::map<std::string, Function> known = {
      {"Add", [](const Operation& op) { return op.in(0) + op.in(1); }},
      {"AveragePool", [](const Operation& op) { return at::avg_pool2d(op.in(0), op.numbers("kernel_shape"), op.numbers("strides")); }},
      {"Cast", [](const Operation& op) { return op.in(0); }},
      {"Concat", [](const Operation& op) { return at::cat(op.inputs, op.attribute<std::int64_t>("axis", 0)); }},
      {"Conv", convolve},
      {"DequantizeLinear", dequantize},
      {"Div", [](const Operation& op) { return op.in(0) / op.in(1); }},
      {"Erf", [](const Operation& op) { return at::erf(op.in(0)); }},
      {"Gemm", gemm},
      {"HardSigmoid", hard_sigmoid},
      {"HardSwish", [](const Operation& op) { return op.in(0) * (op.in(0) / 6.0 + 0.5).clamp(0, 1); }},
      {"LayerNormalization", layer_norm},
      {"MatMul", [](const Operation& op) { return at::matmul(op.in(0), op.in(1)); }},
      {"Mul", [](const Operation& op) { return op.in(0) * op.in(1); }},
      {"QuantizeLinear", quantize},
      {"ReduceMean", [](const Operation& op) { return op.in(0).mean(op.numbers("axes"), op.attribute<std::int64_t>("keepdims", 1) == 1); }},
      {"Relu", [](const Operation& op) { return at::relu(op.in(0)); }},
      {"Reshape", [](const Operation& op) { return op.in(0).reshape(as_numbers(op.in(1))); }},
      {"Sigmoid", [](const Operation& op) { return at::sigmoid(op.in(0)); }},
      {"Slice", slice},
      {"Softmax", [](const Operation& op) { return at::softmax(op.in(0), op.attribute<std::int64_t>("axis", -1)); }},
      {"Transpose", [](const Operation& op) { return op.in(0).permute(op.numbers("perm")); }},
  };
  return known;
}

/// float16 in, float16 out; a Cast says itself.
bool gives_half(const OnnxNode& node, bool any_half) {
  if (node.op != "Cast") return any_half;
  return std::get<std::int64_t>(node.attributes.at("to")) == 10;
}

}  // namespace

OnnxRunner::OnnxRunner(const OnnxGraph& graph) : graph_(graph) {
  for (const OnnxTensor& constant : graph.constants) constants_[constant.name] = &constant;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const OnnxNode& node = graph.nodes[i];
    PV_CHECK(functions().count(node.op) != 0, "ONNX: node \"{}\" is a {}, which exports do not write", node.output, node.op);
    for (const std::string& input : node.inputs) last_use_[input] = i;
  }
}

torch::Tensor OnnxRunner::run(const torch::Tensor& input, const Observer& observer) const {
  const torch::NoGradGuard no_grad;
  PV_CHECK(input.sizes() == graph_.input.shape, "ONNX: an input of other than the graph's shape [{}]", fmt::join(graph_.input.shape, ", "));
  if (observer) observer(graph_.input.name, input);
  std::map<std::string, torch::Tensor> values = {{graph_.input.name, input}};
  for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
    const OnnxNode& node = graph_.nodes[i];
    Operation operation{node, {}};
    bool any_half = false;
    for (const std::string& name : node.inputs) {
      const auto made = values.find(name);
      torch::Tensor value = made != values.end() ? made->second : constants_.at(name)->value();
      if (value.scalar_type() == torch::kFloat16) {
        any_half = true;
        value = value.to(torch::kFloat32);
      }
      operation.inputs.push_back(std::move(value));
    }
    torch::Tensor result = functions().at(node.op)(operation);
    if (gives_half(node, any_half)) result = result.to(torch::kFloat16);
    if (observer && result.is_floating_point()) observer(node.output, result.to(torch::kFloat32));
    values[node.output] = std::move(result);
    for (const std::string& name : node.inputs) {
      if (last_use_.at(name) == i && name != graph_.output.name) values.erase(name);
    }
  }
  return values.at(graph_.output.name).contiguous();
}

}  // namespace pocketvlm
