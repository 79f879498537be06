#pragma once

#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "exporter/onnx_vision.h"

namespace pocketvlm {

/// A value of the graph in the making, with its shape.
struct OnnxHandle {
  std::string name;
  std::vector<int64_t> shape;
};

/// Appends operations to a graph, follows their shapes, and keeps constants and quantization in the form that was asked for.
class OnnxBuilder {
 public:
  /// `graph` and `form` must outlive the builder.
  OnnxBuilder(OnnxGraph& graph, const OnnxVisionForm& form);

  /// An operation whose result has `shape`.
  OnnxHandle add(const std::string& op,
                 const std::string& name,
                 const std::vector<std::string>& inputs,
                 std::vector<int64_t> shape,
                 std::map<std::string, OnnxAttribute> attributes = {});

  /// A constant in the graph's float type; added once, however often it is asked for.
  std::string constant(const std::string& name, const torch::Tensor& value);
  std::string scalar(const std::string& name, double value) { return constant(name, torch::full({1}, value)); }

  OnnxHandle sum(const std::string& name, const OnnxHandle& x, const std::string& y) { return add("Add", name, {x.name, y}, x.shape); }
  OnnxHandle scaled(const std::string& name, const OnnxHandle& x, const std::string& y) { return add("Mul", name, {x.name, y}, x.shape); }
  OnnxHandle reshape(const std::string& name, const OnnxHandle& x, const std::vector<int64_t>& shape);
  OnnxHandle transpose(const std::string& name, const OnnxHandle& x, const std::vector<int64_t>& order);
  /// Rows [begin, end) of x.
  OnnxHandle rows(const std::string& name, const OnnxHandle& x, int64_t begin, int64_t end);
  OnnxHandle norm(const std::string& name, const OnnxHandle& x, const torch::Tensor& weight, const torch::Tensor& bias, double eps);

  /// x [rows, in] times weight [out, in], transposed, plus bias [out] (may be undefined).
  OnnxHandle product(const std::string& name, const OnnxHandle& x, const torch::Tensor& weight, const torch::Tensor& bias);
  /// x [1, channels, rows, columns]; weight as Conv has it. Attributes: strides, pads, group.
  OnnxHandle convolution(const std::string& name,
                         const OnnxHandle& x,
                         const torch::Tensor& weight,
                         const torch::Tensor& bias,
                         int64_t stride,
                         int64_t padding,
                         int64_t groups);

  bool half() const { return float_type_ == torch::kFloat16; }

 private:
  std::string store(const std::string& name, torch::Dtype dtype, const std::vector<int64_t>& shape, std::function<torch::Tensor()> value);
  std::vector<std::string> operands(const OnnxHandle& x, const std::string& name, const torch::Tensor& weight, const torch::Tensor& bias);
  OnnxHandle quantized(const OnnxHandle& x);

  OnnxGraph& graph_;
  const OnnxVisionForm& form_;
  torch::Dtype float_type_;
  std::set<std::string> stored_;
  std::map<std::string, OnnxHandle> quantized_;  // by the name of what was quantized
  std::map<std::string, float> scales_;          // of the same
};

}  // namespace pocketvlm
