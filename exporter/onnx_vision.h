#pragma once

#include <array>
#include <map>
#include <string>

#include "exporter/onnx_graph.h"
#include "exporter/vision_part.h"

namespace pocketvlm {

/// Smallest and largest number that a value took.
struct ValueRange {
  float low = 0.0F;
  float high = 0.0F;
};

/// How the graph of a vision part is written.
struct OnnxVisionForm {
  std::array<int64_t, 2> grid = {32, 32};  // (rows, columns) of patches, fixed in the file
  int64_t longest = 0;                     // VisionPart::strips(): patches of the longest slice of a request; else unused
  std::string precision = "fp16";          // fp32 | fp16 | int8
  /// int8: of each value that enters or leaves a product, by its name in the graph.
  std::map<std::string, ValueRange> ranges;
};

/// Vision encoder and projector as one graph for slices of one grid:
///   pixels         [1, 3, rows * patch, columns * patch] float32, RGB, normalised: what `inspect image --out` writes as slice.k
///   visual_tokens  [queries, hidden] float32, what the decoder takes in place of text embeddings (after scale_embeddings)
/// Positions are constants of the grid, the resampler's queries are projected beforehand. Norms are LayerNormalization, products
/// with weights are Gemm on [tokens, width] with the weights as the checkpoint has them. Values between are float16 in fp16 and
/// float32 in fp32 and int8.
///   int8  each product with weights stands between QuantizeLinear and DequantizeLinear: weights int8, one scale an output channel,
///         activations uint8 by `ranges`; attention, norms and activation functions stay float
/// The graph shares the weights of `vision` and converts each when it is written. Throws Error where the config does not take the
/// grid; writing throws for weights that float16 cannot hold.
OnnxGraph vision_graph(const VisionPart& vision, const OnnxVisionForm& form);

}  // namespace pocketvlm
