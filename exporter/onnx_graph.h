#pragma once

#include <torch/types.h>

#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace pocketvlm {

using OnnxAttribute = std::variant<std::int64_t, float, std::vector<std::int64_t>>;

/// One operation. Values are known by name; every name is assigned once.
struct OnnxNode {
  std::string op;
  std::vector<std::string> inputs;
  std::string output;  // also the node's name
  std::map<std::string, OnnxAttribute> attributes;
};

/// A constant, made when it is needed so that a model need not stand in memory. float16, float32, int8, uint8, int32 or int64.
struct OnnxTensor {
  std::string name;
  torch::Dtype dtype;
  std::vector<std::int64_t> shape;
  std::function<torch::Tensor()> value;  // contiguous
};

/// What flows in and out, float32.
struct OnnxValue {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// A graph of static shapes with one input and one output: what a phone's NPU compiles. Nodes are in the order of computation.
struct OnnxGraph {
  std::string name;
  OnnxValue input;
  OnnxValue output;
  std::vector<OnnxNode> nodes;
  std::vector<OnnxTensor> constants;
  std::map<std::string, std::string> metadata;  // for people and programs that open the file
};

/// The operator set in use: the first with LayerNormalization, and one that Qualcomm's converter and onnxruntime's QNN provider take.
constexpr std::int64_t kOnnxOpset = 17;

/// Writes one .onnx file atomically, constants one by one. Throws Error when it would exceed 2 GiB, which no reader of Protocol
/// Buffers takes in one message, or when a constant's value is not of its dtype and shape.
void write_onnx(const OnnxGraph& graph, const std::string& path);

/// Reads back what write_onnx wrote. Throws Error naming the file for damage, for another operator set, for values that are used
/// before they are made or made twice, and for anything write_onnx does not write. Constants are read from the mapped file.
OnnxGraph read_onnx(const std::string& path);

}  // namespace pocketvlm
