#include "exporter/onnx_vision.h"

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "data/preprocess/position_buckets.h"
#include "exporter/onnx_builder.h"
#include "mobile/positions.h"

namespace pocketvlm {
namespace {

torch::Tensor as_rows(const std::vector<float>& values, int64_t hidden) { return torch::tensor(values).view({-1, hidden}); }

std::vector<float> as_vector(const torch::Tensor& tensor) {
  const torch::Tensor flat = tensor.contiguous();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

/// Rows of the learned table for a grid, [rows * columns, hidden].
torch::Tensor bucketed(const torch::Tensor& table, int64_t side, int64_t rows, int64_t columns) {
  const torch::Tensor down = torch::tensor(position_buckets(rows, side)), across = torch::tensor(position_buckets(columns, side));
  return table.index_select(0, (down.unsqueeze(1) * side + across.unsqueeze(0)).flatten());
}

/// Writes a vision part into a graph, in the order of its forward pass. Names are the checkpoint's where a module makes the value.
class VisionGraphWriter {
 public:
  VisionGraphWriter(const VisionPart& vision, const OnnxVisionForm& form, OnnxGraph& graph)
      : vision_(vision), config_(vision.config()), form_(form), builder_(graph, form), rows_(form.grid[0]), columns_(form.grid[1]) {}

  OnnxHandle write(const OnnxHandle& pixels) {
    OnnxHandle x = pixels;
    if (builder_.half()) x = builder_.add("Cast", "pixels.half", {x.name}, x.shape, {{"to", kHalfNumber}});
    return projector(encoder(x));
  }

 private:
  static constexpr int64_t kHalfNumber = 10;  // TensorProto.DataType.FLOAT16

  const torch::Tensor& weight(const std::string& name) const { return vision_.weight(name); }

  /// Linear and LayerNorm of the checkpoint by the name of their module.
  OnnxHandle linear(const std::string& name, const OnnxHandle& x, bool with_bias = true) {
    return builder_.product(name, x, weight(name + ".weight"), with_bias ? weight(name + ".bias") : torch::Tensor());
  }
  OnnxHandle norm(const std::string& name, const OnnxHandle& x, double eps) {
    return builder_.norm(name, x, weight(name + ".weight"), weight(name + ".bias"), eps);
  }

  OnnxHandle embedded(const OnnxHandle& pixels);
  torch::Tensor positions() const;
  OnnxHandle encoder(const OnnxHandle& pixels);
  OnnxHandle block(const std::string& name, const OnnxHandle& x);
  OnnxHandle attention(const std::string& name, const OnnxHandle& q, const OnnxHandle& k, const OnnxHandle& v, int64_t heads);
  OnnxHandle keys_times(const std::string& name, const OnnxHandle& q, const OnnxHandle& k, const OnnxHandle& v, int64_t heads);
  OnnxHandle activation(const std::string& kind, const std::string& name, const OnnxHandle& x);
  OnnxHandle slice_rows(const std::string& name, const OnnxHandle& x, int64_t begin, int64_t count);

  OnnxHandle projector(const OnnxHandle& features);
  OnnxHandle resampler(const OnnxHandle& features);
  torch::Tensor resampler_queries() const;
  torch::Tensor key_positions() const;
  OnnxHandle two_layers(const OnnxHandle& features);
  OnnxHandle ldp_block(const std::string& name, const OnnxHandle& image, int64_t stride);
  OnnxHandle as_image(const std::string& name, const OnnxHandle& x);
  OnnxHandle as_tokens(const std::string& name, const OnnxHandle& image);

  const VisionPart& vision_;
  const ModelConfig& config_;
  const OnnxVisionForm& form_;
  OnnxBuilder builder_;
  int64_t rows_, columns_;
};

torch::Tensor VisionGraphWriter::positions() const {
  const VisionConfig& vision = config_.vision;
  const int64_t side = vision.position_side;
  const torch::Tensor& table = weight("vision_encoder.position_embedding");
  if (vision_.strips()) return bucketed(table, side, 1, form_.longest);
  if (vision.positions == "bucketed") return bucketed(table, side, rows_, columns_);
  if (vision.positions == "interpolated") {
    return as_rows(resample_positions_antialiased(as_vector(table), side, vision.hidden, rows_, columns_), vision.hidden);
  }
  PV_CHECK(rows_ == side && columns_ == side,
           "export: a grid of {}x{} patches, but vision.positions = \"fixed\" takes {}x{} only; leave out --onnx-grid", rows_, columns_, side,
           side);
  return vision.class_token ? table.narrow(0, 1, side * side) : table;
}

/// Patches with their positions, [patches, hidden]; a class token goes before them, the padding of a strip behind.
OnnxHandle VisionGraphWriter::embedded(const OnnxHandle& pixels) {
  const VisionConfig& vision = config_.vision;
  const int64_t patch = config_.image.patch_size, count = rows_ * columns_;
  const std::string name = "vision_encoder.patch_embedding";
  const torch::Tensor bias = vision.patch_bias ? weight(name + ".bias") : torch::Tensor();
  OnnxHandle x = builder_.convolution(name, pixels, weight(name + ".weight").view({vision.hidden, 3, patch, patch}), bias, patch, 0, 1);
  x = builder_.reshape(name + ".columns", x, {vision.hidden, count});
  x = builder_.transpose(name + ".rows", x, {1, 0});
  const torch::Tensor table = positions();
  x = builder_.sum("vision_encoder.embedded", x, builder_.constant("vision_encoder.positions", table.narrow(0, 0, count)));
  if (vision.class_token) {
    const torch::Tensor token = weight("vision_encoder.class_embedding") + weight("vision_encoder.position_embedding")[0];
    x = builder_.add("Concat", "vision_encoder.with_class", {builder_.constant("vision_encoder.class_token", token.unsqueeze(0)), x.name},
                     {count + 1, vision.hidden}, {{"axis", int64_t{0}}});
  }
  if (table.size(0) > count) {  // an empty patch embeds to the bias
    torch::Tensor padding = table.narrow(0, count, table.size(0) - count);
    if (bias.defined()) padding = padding + bias;
    x = builder_.add("Concat", "vision_encoder.padded", {x.name, builder_.constant("vision_encoder.padding", padding)},
                     {table.size(0), vision.hidden}, {{"axis", int64_t{0}}});
  }
  return x;
}

OnnxHandle VisionGraphWriter::slice_rows(const std::string& name, const OnnxHandle& x, int64_t begin, int64_t count) {
  if (begin == 0 && count == x.shape[0]) return x;
  return builder_.rows(name, x, begin, begin + count);
}

OnnxHandle VisionGraphWriter::encoder(const OnnxHandle& pixels) {
  const VisionConfig& vision = config_.vision;
  OnnxHandle x = embedded(pixels);
  if (vision.pre_norm) x = norm("vision_encoder.pre_norm", x, vision.norm_eps);
  for (int64_t i = 0; i < vision.num_layers; ++i) x = block(fmt::format("vision_encoder.blocks.{}", i), x);
  x = slice_rows("vision_encoder.patches", x, vision.class_token ? 1 : 0, rows_ * columns_);
  return vision.final_norm ? norm("vision_encoder.final_norm", x, vision.norm_eps) : x;
}

OnnxHandle VisionGraphWriter::block(const std::string& name, const OnnxHandle& x) {
  const VisionConfig& vision = config_.vision;
  const OnnxHandle before = norm(name + ".norm1", x, vision.norm_eps);
  const std::string attn = name + ".attn";
  const OnnxHandle attended = attention(attn, linear(attn + ".q_proj", before), linear(attn + ".k_proj", before),
                                        linear(attn + ".v_proj", before), vision.num_heads);
  const OnnxHandle middle = builder_.sum(name + ".middle", x, linear(attn + ".out_proj", attended).name);
  const OnnxHandle inner = linear(name + ".mlp.fc1", norm(name + ".norm2", middle, vision.norm_eps));
  return builder_.sum(name, middle, linear(name + ".mlp.fc2", activation(vision.activation, name + ".mlp.act", inner)).name);
}

/// q [queries, hidden] -> heads -> keys_times.
OnnxHandle VisionGraphWriter::attention(const std::string& name, const OnnxHandle& q, const OnnxHandle& k, const OnnxHandle& v, int64_t heads) {
  const int64_t width = q.shape[1] / heads;
  OnnxHandle queries = builder_.reshape(name + ".q_heads", q, {1, q.shape[0], heads, width});
  queries = builder_.transpose(name + ".q", queries, {0, 2, 1, 3});
  // Scaled before the product: sums of float16 stay small.
  queries = builder_.scaled(name + ".q_scaled", queries, builder_.scalar(name + ".scale", 1.0 / std::sqrt(static_cast<double>(width))));
  return keys_times(name, queries, k, v, heads);
}

/// Attention of scaled queries [1, heads, queries, width] over k, v [keys, hidden] -> [queries, hidden].
OnnxHandle VisionGraphWriter::keys_times(const std::string& name, const OnnxHandle& q, const OnnxHandle& k, const OnnxHandle& v, int64_t heads) {
  const int64_t queries = q.shape[2], keys = k.shape[0], width = q.shape[3];
  OnnxHandle key = builder_.reshape(name + ".k_heads", k, {1, keys, heads, width});
  key = builder_.transpose(name + ".k", key, {0, 2, 3, 1});
  OnnxHandle value = builder_.reshape(name + ".v_heads", v, {1, keys, heads, width});
  value = builder_.transpose(name + ".v", value, {0, 2, 1, 3});
  OnnxHandle weights = builder_.add("MatMul", name + ".scores", {q.name, key.name}, {1, heads, queries, keys});
  weights = builder_.add("Softmax", name + ".weights", {weights.name}, weights.shape, {{"axis", int64_t{-1}}});
  OnnxHandle out = builder_.add("MatMul", name + ".mixed", {weights.name, value.name}, {1, heads, queries, width});
  out = builder_.transpose(name + ".mixed_rows", out, {0, 2, 1, 3});
  return builder_.reshape(name + ".mixed_heads", out, {queries, heads * width});
}

OnnxHandle VisionGraphWriter::activation(const std::string& kind, const std::string& name, const OnnxHandle& x) {
  const auto times = [&](const std::string& to, const OnnxHandle& a, const OnnxHandle& b) { return builder_.scaled(to, a, b.name); };
  if (kind == "quick_gelu") {
    const OnnxHandle inner = builder_.scaled(name + ".inner", x, builder_.scalar(name + ".factor", 1.702));
    return times(name, x, builder_.add("Sigmoid", name + ".gate", {inner.name}, x.shape));
  }
  if (kind == "gelu_tanh") {
    // (1 + tanh(u)) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): one step less, and exact where 1 + tanh cancels.
    const double factor = 2.0 * std::sqrt(2.0 / std::numbers::pi);
    OnnxHandle inner = times(name + ".square", x, x);
    inner = builder_.scaled(name + ".cubic", inner, builder_.scalar(name + ".cubic_factor", 0.044715 * factor));
    inner = builder_.sum(name + ".slope", inner, builder_.scalar(name + ".linear_factor", factor));
    inner = times(name + ".inner", inner, x);
    return times(name, x, builder_.add("Sigmoid", name + ".gate", {inner.name}, x.shape));
  }
  TORCH_INTERNAL_ASSERT(kind == "gelu_erf");
  // x / sqrt(2), Erf, + 1, * x, / 2: the order in which compilers recognise one Gelu.
  OnnxHandle inner = builder_.add("Div", name + ".inner", {x.name, builder_.scalar(name + ".sqrt2", std::numbers::sqrt2)}, x.shape);
  inner = builder_.add("Erf", name + ".erf", {inner.name}, x.shape);
  inner = builder_.sum(name + ".gate", inner, builder_.scalar(name + ".one", 1.0));
  inner = times(name + ".double", x, inner);
  return builder_.scaled(name, inner, builder_.scalar(name + ".half", 0.5));
}

torch::Tensor VisionGraphWriter::key_positions() const {
  const int64_t hidden = config_.language.hidden;
  if (config_.projector.positions != "interpolated") return as_rows(sincos_table(rows_, columns_, hidden), hidden);
  const torch::Tensor& table = weight("projector.query_positions");
  const int64_t side = std::llround(std::sqrt(static_cast<double>(table.size(0))));
  return as_rows(resample_positions(as_vector(table), side, hidden, rows_, columns_), hidden);
}

/// What every slice asks, projected and scaled once for all: [1, heads, queries, width].
torch::Tensor VisionGraphWriter::resampler_queries() const {
  const torch::NoGradGuard no_grad;
  const int64_t hidden = config_.language.hidden, heads = config_.projector.num_heads;
  torch::Tensor query = at::layer_norm(weight("projector.query"), {hidden}, weight("projector.norm_q.weight"),
                                       weight("projector.norm_q.bias"), config_.projector.norm_eps);
  if (config_.projector.positions != "key") query = query + weight("projector.query_positions");
  const torch::Tensor projected = at::linear(query, weight("projector.attn.q_proj.weight"), weight("projector.attn.q_proj.bias"));
  const double scale = 1.0 / std::sqrt(static_cast<double>(hidden / heads));
  return (projected * scale).view({1, query.size(0), heads, hidden / heads}).transpose(1, 2).contiguous();
}

OnnxHandle VisionGraphWriter::resampler(const OnnxHandle& features) {
  const ProjectorConfig& projector = config_.projector;
  const torch::Tensor asked = resampler_queries();
  const OnnxHandle x = norm("projector.norm_kv", linear("projector.kv_proj", features, false), projector.norm_eps);
  const OnnxHandle placed = builder_.sum("projector.placed", x, builder_.constant("projector.positions", key_positions()));
  const OnnxHandle queries{builder_.constant("projector.queries", asked), asked.sizes().vec()};
  OnnxHandle out = keys_times("projector.attn", queries, linear("projector.attn.k_proj", placed), linear("projector.attn.v_proj", x),
                              projector.num_heads);
  out = norm("projector.norm_post", linear("projector.attn.out_proj", out), projector.norm_eps);
  return builder_.product("projector.proj", out, weight("projector.proj").t().contiguous(), {});  // the model computes x @ proj
}

OnnxHandle VisionGraphWriter::two_layers(const OnnxHandle& features) {
  return linear("projector.mlp.2", activation("gelu_erf", "projector.mlp.act", linear("projector.mlp.0", features)));
}

OnnxHandle VisionGraphWriter::as_image(const std::string& name, const OnnxHandle& x) {
  const OnnxHandle rows = builder_.transpose(name + ".channels", x, {1, 0});
  return builder_.reshape(name, rows, {1, x.shape[1], rows_, columns_});
}

/// [1, channels, rows, columns] -> [rows * columns, channels]
OnnxHandle VisionGraphWriter::as_tokens(const std::string& name, const OnnxHandle& image) {
  const OnnxHandle flat = builder_.reshape(name + ".flat", image, {image.shape[1], image.shape[2] * image.shape[3]});
  return builder_.transpose(name, flat, {1, 0});
}

/// Depthwise, norm, hardswish, squeeze-and-excitation, pointwise, norm. Returns [1, channels, rows, columns].
OnnxHandle VisionGraphWriter::ldp_block(const std::string& name, const OnnxHandle& image, int64_t stride) {
  constexpr double kEps = 1e-5;
  const torch::Tensor& kernel = weight(name + ".depthwise.weight");
  const OnnxHandle convolved = builder_.convolution(name + ".depthwise", image, kernel, {}, stride, 1, kernel.size(0));
  OnnxHandle x = norm(name + ".norm1", as_tokens(name + ".depthwise.tokens", convolved), kEps);
  x = builder_.add("HardSwish", name + ".act", {x.name}, x.shape);
  OnnxHandle gate = builder_.add("ReduceMean", name + ".se.mean", {x.name}, {1, x.shape[1]},
                                 {{"axes", std::vector<int64_t>{0}}, {"keepdims", int64_t{1}}});
  gate = linear(name + ".se.fc1", gate);
  gate = linear(name + ".se.fc2", builder_.add("Relu", name + ".se.relu", {gate.name}, gate.shape));
  gate = builder_.add("HardSigmoid", name + ".se.gate", {gate.name}, gate.shape, {{"alpha", 1.0F / 6.0F}, {"beta", 0.5F}});
  x = builder_.scaled(name + ".se", x, gate.name);
  x = norm(name + ".norm2", linear(name + ".pointwise", x, false), kEps);
  const OnnxHandle channels = builder_.transpose(name + ".channels", x, {1, 0});
  return builder_.reshape(name, channels, {1, x.shape[1], convolved.shape[2], convolved.shape[3]});
}

OnnxHandle VisionGraphWriter::projector(const OnnxHandle& features) {
  const ProjectorConfig& projector = config_.projector;
  if (projector.kind == "resampler") return resampler(features);
  const int64_t pooled = projector.kind == "mlp" ? 1 : 2;  // patches a side that make one token
  PV_CHECK(rows_ % pooled == 0 && columns_ % pooled == 0 && rows_ * columns_ == pooled * pooled * projector.num_queries,
           "export: a grid of {}x{} patches does not give projector.num_queries = {} tokens of {}; choose another --onnx-grid", rows_,
           columns_, projector.num_queries, projector.kind);
  const OnnxHandle tokens = two_layers(features);
  if (projector.kind == "mlp") return tokens;
  const OnnxHandle image = as_image("projector.image", tokens);
  if (projector.kind == "ldp") {
    const OnnxHandle full = ldp_block("projector.blocks.0", image, 1);
    return as_tokens("projector.tokens", ldp_block("projector.blocks.1", builder_.sum("projector.sum", full, image.name), 2));
  }
  TORCH_INTERNAL_ASSERT(projector.kind == "ldpv2");
  const std::vector<int64_t> two = {2, 2};
  const OnnxHandle half = builder_.add("AveragePool", "projector.pooled", {image.name}, {1, image.shape[1], rows_ / 2, columns_ / 2},
                                       {{"kernel_shape", two}, {"strides", two}});
  const torch::Tensor& kernel = weight("projector.peg.weight");
  const OnnxHandle placed = builder_.convolution("projector.peg", half, kernel, weight("projector.peg.bias"), 1, 1, kernel.size(0));
  return as_tokens("projector.tokens", builder_.sum("projector.sum", half, placed.name));
}

}  // namespace

OnnxGraph vision_graph(const VisionPart& vision, const OnnxVisionForm& form) {
  const ModelConfig& config = vision.config();
  const int64_t patch = config.image.patch_size, rows = form.grid[0], columns = form.grid[1];
  PV_CHECK(rows > 0 && columns > 0 && rows <= 4096 && columns <= 4096, "export: a grid of {}x{} patches; both sides must be from 1 to 4096",
           rows, columns);
  PV_CHECK(!vision.strips() || form.longest >= rows * columns,
           "export: --onnx-longest {} is less than the {} patches of the grid {}x{}; raise it", form.longest, rows * columns, rows, columns);
  OnnxGraph graph;
  graph.name = config.family;
  graph.input = {"pixels", {1, 3, rows * patch, columns * patch}};
  graph.output = {"visual_tokens", {config.projector.num_queries, config.language.hidden}};
  graph.metadata = {{"pocketvlm.grid", fmt::format("{}x{}", rows, columns)}, {"pocketvlm.precision", form.precision}};
  if (vision.strips()) graph.metadata["pocketvlm.longest"] = std::to_string(form.longest);
  VisionGraphWriter writer(vision, form, graph);
  const OnnxHandle tokens = writer.write({graph.input.name, graph.input.shape});
  TORCH_INTERNAL_ASSERT(tokens.shape == graph.output.shape);
  // What leaves is float32, under its own name.
  graph.nodes.push_back({"Cast", {tokens.name}, graph.output.name, {{"to", int64_t{1}}}});
  return graph;
}

}  // namespace pocketvlm
