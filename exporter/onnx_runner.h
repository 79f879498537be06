#pragma once

#include <functional>
#include <string>

#include "exporter/onnx_graph.h"

namespace pocketvlm {

/// Computes a graph with LibTorch, operation by operation as the ONNX operator set defines them. It is how an export is checked
/// without another program, and how the ranges of values are found; it knows the operations that vision_graph writes and no more.
/// float16 values are computed in float32 and rounded, as onnxruntime does on processors without float16 arithmetic.
class OnnxRunner {
 public:
  /// Hears of every value as it is made; float16 ones as float32.
  using Observer = std::function<void(const std::string& name, const torch::Tensor& value)>;

  /// Throws Error for an operation that it does not know. The graph must outlive it.
  explicit OnnxRunner(const OnnxGraph& graph);

  /// The output for one input of the graph's shape, both float32.
  torch::Tensor run(const torch::Tensor& input, const Observer& observer = {}) const;

 private:
  const OnnxGraph& graph_;
  std::map<std::string, const OnnxTensor*> constants_;
  std::map<std::string, std::size_t> last_use_;  // of values that nodes make, so that memory holds no more than is needed
};

}  // namespace pocketvlm
