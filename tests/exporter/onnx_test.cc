#include "exporter/onnx_export.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"
#include "exporter/onnx_runner.h"
#include "exporter/onnx_vision.h"
#include "exporter/onnx_wire.h"
#include "tests/exporter/tiny_vision.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

using Grid = std::array<int64_t, 2>;

class Onnx : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = testing::TempDir() + "/onnx_test";
    std::filesystem::remove_all(folder_);
    for (const auto& [name, config] : tiny_vision_parts()) save_tiny_vision(config, folder_ + "/" + name);
  }

  static std::string checkpoint(const std::string& name = "bucketed, resampler") { return folder_ + "/" + name; }

  static Image noise(int width, int height, std::uint64_t seed) {
    Image image(width, height);
    Random random({seed});
    for (auto& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
    return image;
  }

  static OnnxVisionForm form(const Grid& grid, const std::string& precision) {
    OnnxVisionForm form;
    form.grid = grid;
    form.longest = grid[0] * grid[1];
    form.precision = precision;
    return form;
  }

  /// The smallest cosine of a visual token of random pixels, the written graph against the trainer.
  static double cosine(VisionPart& vision, const OnnxVisionForm& form, const std::string& path) {
    const OnnxGraph graph = read_onnx(path);
    const int64_t patch = vision.config().image.patch_size, rows = form.grid[0], columns = form.grid[1];
    torch::manual_seed(9);
    const torch::Tensor pixels = torch::rand({1, 3, rows * patch, columns * patch}) * 2 - 1;
    const torch::Tensor patches =
        pixels.view({3, rows, patch, columns, patch}).permute({1, 3, 0, 2, 4}).reshape({rows * columns, 3 * patch * patch});
    const torch::Tensor x = OnnxRunner(graph).run(pixels), y = vision.visual_tokens(patches, form.grid, form.longest);
    return at::cosine_similarity(x.to(torch::kFloat64), y.to(torch::kFloat64), 1).min().item<double>();
  }

  static Grid usual_grid(const ModelConfig& config) { return config.vision.positions == "fixed" ? Grid{6, 6} : Grid{4, 9}; }

  static std::string folder_;
};
std::string Onnx::folder_;

TEST_F(Onnx, EveryVisionPartEqualsTheTrainer) {
  for (const auto& [name, config] : tiny_vision_parts()) {
    VisionPart vision(checkpoint(name));
    for (const char* precision : {"fp32", "fp16"}) {
      const OnnxVisionForm written = form(usual_grid(config), precision);
      write_onnx(vision_graph(vision, written), folder_ + "/part.onnx");
      const double bound = written.precision == "fp32" ? 0.9999999 : 0.9999;
      EXPECT_GT(cosine(vision, written, folder_ + "/part.onnx"), bound) << name << " " << precision;
    }
  }
}

TEST_F(Onnx, OneWeightThatDiffersShows) {
  for (const auto& [name, config] : tiny_vision_parts()) {
    VisionPart vision(checkpoint(name));
    const OnnxVisionForm written = form(usual_grid(config), "fp16");
    write_onnx(vision_graph(vision, written), folder_ + "/before.onnx");
    torch::Tensor weight = vision.weight("vision_encoder.blocks.1.mlp.fc2.bias");
    weight[3] += 3.0;
    EXPECT_LT(cosine(vision, written, folder_ + "/before.onnx"), 0.9999) << name;
  }
}

/// Releases store the positions of queries rounded; a file made from the formula would be another model.
TEST_F(Onnx, TakesQueryPositionsFromTheCheckpoint) {
  const std::string name = "interpolated, resampler with query positions";
  const VisionPart vision(checkpoint(name));
  const torch::Tensor& positions = vision.weight("projector.query_positions");
  EXPECT_TRUE(at::equal(positions, positions.to(torch::kBFloat16).to(torch::kFloat32)));
  EXPECT_FALSE(at::equal(positions, sincos_positions(2, 2, positions.size(1))));
}

/// A request's longest slice changes what 2.5 as released makes of the others.
TEST_F(Onnx, AStripIsAsLongAsTheRequestsLongest) {
  VisionPart vision(checkpoint("strips"));
  OnnxVisionForm written = form({4, 6}, "fp32");
  written.longest = 40;
  write_onnx(vision_graph(vision, written), folder_ + "/strip.onnx");
  EXPECT_GT(cosine(vision, written, folder_ + "/strip.onnx"), 0.9999999);
  written.longest = 24;
  EXPECT_LT(cosine(vision, written, folder_ + "/strip.onnx"), 0.9999);
}

/// What compilers of phones rely on: one input, one output, static shapes, standard operations, each value made once.
TEST_F(Onnx, FilesHoldStaticGraphsOfKnownOperations) {
  const std::set<std::string> known = {"Add", "AveragePool", "Cast", "Concat", "Conv", "Div", "Erf", "Gemm", "HardSigmoid", "HardSwish",
                                       "LayerNormalization", "MatMul", "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice",
                                       "Softmax", "Transpose"};
  for (const auto& [name, config] : tiny_vision_parts()) {
    VisionPart vision(checkpoint(name));
    const Grid grid = usual_grid(config);
    const std::string path = folder_ + "/structure.onnx";
    const OnnxGraph made = vision_graph(vision, form(grid, "fp16"));
    write_onnx(made, path);
    const OnnxGraph read = read_onnx(path);
    EXPECT_EQ(read.input.name, "pixels");
    EXPECT_EQ(read.input.shape, (std::vector<int64_t>{1, 3, grid[0] * 4, grid[1] * 4}));
    EXPECT_EQ(read.output.name, "visual_tokens");
    EXPECT_EQ(read.output.shape, (std::vector<int64_t>{config.projector.num_queries, config.language.hidden}));
    EXPECT_EQ(read.metadata, made.metadata);
    ASSERT_EQ(read.nodes.size(), made.nodes.size());
    for (std::size_t i = 0; i < read.nodes.size(); ++i) {
      EXPECT_EQ(read.nodes[i].op, made.nodes[i].op);
      EXPECT_EQ(read.nodes[i].inputs, made.nodes[i].inputs);
      EXPECT_EQ(read.nodes[i].attributes, made.nodes[i].attributes);
      EXPECT_EQ(known.count(read.nodes[i].op), 1U) << read.nodes[i].op;
    }
    ASSERT_EQ(read.constants.size(), made.constants.size());
    for (std::size_t i = 0; i < read.constants.size(); ++i) {
      EXPECT_TRUE(at::equal(read.constants[i].value(), made.constants[i].value())) << made.constants[i].name;
      EXPECT_NE(read.constants[i].dtype, torch::kFloat32) << "fp16 keeps no float32: " << made.constants[i].name;
    }
  }
}

/// The bytes themselves, as any reader of Protocol Buffers sees them: field numbers of onnx.proto written out once more.
TEST_F(Onnx, FilesAreProtocolBuffers) {
  VisionPart vision(checkpoint());
  const std::string path = folder_ + "/bytes.onnx";
  write_onnx(vision_graph(vision, form({4, 4}, "fp16")), path);
  const std::string bytes = read_file(path);
  WireReader reader(std::as_bytes(std::span(bytes)), path);
  std::int64_t ir_version = 0, opset = 0, nodes = 0, constants = 0;
  while (reader.next()) {
    if (reader.field() == 1) ir_version = reader.number();
    if (reader.field() == 8) {
      WireReader import(reader.bytes(), path);
      while (import.next()) opset = import.field() == 2 ? import.number() : opset;
    }
    if (reader.field() != 7) continue;
    WireReader graph(reader.bytes(), path);
    while (graph.next()) {
      nodes += graph.field() == 1 ? 1 : 0;
      constants += graph.field() == 5 ? 1 : 0;
    }
  }
  EXPECT_EQ(ir_version, 8);
  EXPECT_EQ(opset, 17);
  EXPECT_GT(nodes, 60);
  EXPECT_GT(constants, 40);
}

TEST_F(Onnx, EightBitsStayClose) {
  for (const auto& [name, config] : tiny_vision_parts()) {
    OnnxExportOptions options;
    options.precision = "int8";
    options.grids = {usual_grid(config)};
    for (std::uint64_t i = 0; i < 9; ++i) options.pictures.push_back(noise(40, 40, i));
    const Json report = export_vision_onnx(checkpoint(name), options, folder_ + "/int8");
    EXPECT_GT(report["files"][0]["cosine"].get<double>(), 0.99) << name << report.dump();
    const OnnxGraph graph = read_onnx(report["files"][0]["file"]);
    std::int64_t products = 0, quantized = 0;
    for (const OnnxNode& node : graph.nodes) {
      if (node.op == "Gemm" || node.op == "Conv") {
        ++products;
        for (const std::string& input : node.inputs) EXPECT_TRUE(input.ends_with(".rounded") || input.ends_with(".weight") || input.ends_with(".bias")) << input;
      }
    }
    for (const OnnxTensor& constant : graph.constants) quantized += constant.dtype == torch::kInt8 && constant.shape.size() > 1 ? 1 : 0;
    EXPECT_EQ(quantized, products) << name;
  }
}

TEST_F(Onnx, WritesOneFileForEachGridThatPicturesNeed) {
  OnnxExportOptions options;
  options.pictures = {noise(30, 30, 1), noise(80, 20, 2)};
  const Json report = export_vision_onnx(checkpoint(), options, folder_ + "/grids");
  EXPECT_TRUE(report["passed"].get<bool>()) << report.dump();
  std::set<Grid> expected;
  for (const Image& picture : options.pictures) {
    for (const ImageSlice& slice : process_image(picture, tiny_config().image).slices) expected.insert({slice.height / 4, slice.width / 4});
  }
  EXPECT_GT(expected.size(), 1U);
  std::set<Grid> written;
  for (const Json& file : report["files"]) {
    written.insert(file["grid"].get<Grid>());
    EXPECT_TRUE(std::filesystem::exists(file["file"].get<std::string>()));
    EXPECT_GE(file["cosine"].get<double>(), 0.9999);
  }
  EXPECT_EQ(written, expected);
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/grids/vision-onnx-fp16.json"));
}

TEST_F(Onnx, AWrongFileDoesNotPass) {
  OnnxExportOptions options;
  options.grids = {{4, 4}};
  options.min_cosine = 1.0;  // float16 never reaches it
  const Json report = export_vision_onnx(checkpoint(), options, folder_ + "/bound");
  EXPECT_FALSE(report["passed"].get<bool>());
}

TEST_F(Onnx, SaysWhatDoesNotFit) {
  VisionPart clip(checkpoint("CLIP, ldp")), newest(checkpoint()), strips(checkpoint("strips"));
  EXPECT_EQ(error_of([&] { vision_graph(clip, form({4, 6}, "fp16")); }),
            "export: a grid of 4x6 patches, but vision.positions = \"fixed\" takes 6x6 only; leave out --onnx-grid");
  EXPECT_EQ(error_of([&] { vision_graph(newest, form({0, 6}, "fp16")); }),
            "export: a grid of 0x6 patches; both sides must be from 1 to 4096");
  OnnxVisionForm shorter = form({4, 6}, "fp16");
  shorter.longest = 20;
  EXPECT_EQ(error_of([&] { vision_graph(strips, shorter); }),
            "export: --onnx-longest 20 is less than the 24 patches of the grid 4x6; raise it");
  for (const char* text : {"32", "x32", "32x", "32x32x", "axb", "0x4", "-1x4"}) {
    EXPECT_EQ(error_of([&] { parse_grid(text); }), fmt::format("--onnx-grid {}: expected ROWSxCOLUMNS of patches, such as 32x32", text));
  }
  EXPECT_EQ(parse_grid("24x40"), (Grid{24, 40}));
  OnnxExportOptions options;
  options.longest = 30;
  EXPECT_EQ(error_of([&] { export_vision_onnx(checkpoint(), options, folder_ + "/none"); }),
            "--onnx-longest: has no effect, slices of this checkpoint do not depend on each other; leave it out");
  torch::Tensor weight = newest.weight("vision_encoder.final_norm.weight");
  weight[0] = 1e6;
  EXPECT_EQ(error_of([&] { write_onnx(vision_graph(newest, form({4, 4}, "fp16")), folder_ + "/large.onnx"); }),
            "export: vision_encoder.final_norm.weight holds values beyond 65504, which float16 cannot; export it as int8");
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/large.onnx"));
}

TEST_F(Onnx, DamagedFilesAreRefused) {
  VisionPart vision(checkpoint());
  const std::string path = folder_ + "/damaged.onnx";
  write_onnx(vision_graph(vision, form({4, 4}, "fp16")), path);
  const std::string whole = read_file(path);
  for (std::size_t length = 1; length < whole.size(); length += whole.size() / 60) {
    write_file_atomic(path, std::string_view(whole).substr(0, length));
    const std::string text = error_of([&] { read_onnx(path); });
    EXPECT_TRUE(text.starts_with(path)) << text;
  }
  std::string other = whole;
  other[other.find("Softmax")] = 'T';
  write_file_atomic(path, other);
  EXPECT_EQ(error_of([&] {
              const OnnxGraph graph = read_onnx(path);
              OnnxRunner runner(graph);
            }),
            "ONNX: node \"vision_encoder.blocks.0.attn.weights\" is a Toftmax, which exports do not write");
}

}  // namespace
}  // namespace pocketvlm
