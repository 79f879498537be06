// ONNX files against the package onnxruntime: an implementation of the operators that is not ours. Needs a Python with onnxruntime
// (tests/golden/requirements-onnx.txt), python3 or the one that $POCKETVLM_PYTHON names.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "base/random.h"
#include "data/preprocess/image_processor.h"
#include "exporter/onnx_export.h"
#include "exporter/onnx_vision.h"
#include "tests/exporter/tiny_vision.h"

namespace pocketvlm {
namespace {

constexpr int kPictures = 50;

class OnnxRuntime : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/onnx_runtime_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    const std::string probe = python() + " -c 'import numpy, onnxruntime' > " + folder_ + "/probe.txt 2>&1";
    if (std::system(probe.c_str()) != 0) {
      GTEST_SKIP() << python() << " has no onnxruntime: install tests/golden/requirements-onnx.txt, or name another Python in "
                   << "POCKETVLM_PYTHON";
    }
  }

  static std::string python() {
    const char* named = std::getenv("POCKETVLM_PYTHON");
    return named != nullptr ? named : "python3";
  }

  /// A slice to encode: its pixels, its patches, what the trainer makes of it.
  struct Job {
    std::string model;
    std::string output;
    torch::Tensor expected;
  };

  std::string file(const std::string& name) const { return folder_ + "/" + name; }

  void add(VisionPart& vision, const ImageSlice& slice, const std::string& model, const OnnxVisionForm& form) {
    const std::string name = std::to_string(jobs_.size());
    write_file_atomic(file(name + ".in"), {reinterpret_cast<const char*>(slice.pixels.data()), slice.pixels.size() * 4});
    PatchValues patches;
    append_patches(slice, static_cast<int>(vision.config().image.patch_size), patches);
    const torch::Tensor rows = torch::tensor(torch::ArrayRef<float>(patches)).view({form.grid[0] * form.grid[1], -1});
    jobs_.push_back({model, file(name + ".out"), vision.visual_tokens(rows, form.grid, form.longest)});
    list_.push_back({{"model", model}, {"input", file(name + ".in")}, {"shape", {1, 3, slice.height, slice.width}}, {"output", file(name + ".out")}});
  }

  /// Slices of a picture of random shape, each by the file of its grid.
  void add_picture(VisionPart& vision, const std::string& name, const std::string& precision, Random& random) {
    Image picture(static_cast<int>(random.between(5, 90)), static_cast<int>(random.between(5, 90)));
    for (auto& value : picture.rgb) value = static_cast<std::uint8_t>(random.below(256));
    const ImageConfig& image = vision.config().image;
    for (const ImageSlice& slice : process_image(picture, image).slices) {
      OnnxVisionForm form;
      form.grid = {slice.height / image.patch_size, slice.width / image.patch_size};
      form.longest = form.grid[0] * form.grid[1];
      form.precision = precision;
      const std::string model = file(fmt::format("{}-{}x{}.onnx", name, form.grid[0], form.grid[1]));
      if (!std::filesystem::exists(model)) write_onnx(vision_graph(vision, form), model);
      add(vision, slice, model, form);
    }
  }

  /// Runs all jobs and returns the smallest cosine of a visual token.
  double run() {
    write_json(file("jobs.json"), list_);
    const std::string command = fmt::format("{} {}/exporter/run_onnx.py {} > {} 2>&1", python(), TEST_DATA, file("jobs.json"), file("run.txt"));
    EXPECT_EQ(std::system(command.c_str()), 0) << read_file(file("run.txt"));
    double smallest = 1.0;
    for (const Job& job : jobs_) {
      const std::string bytes = read_file(job.output);
      torch::Tensor tokens = torch::empty_like(job.expected);
      EXPECT_EQ(bytes.size(), tokens.nbytes());
      std::memcpy(tokens.data_ptr(), bytes.data(), tokens.nbytes());
      const torch::Tensor cosine = at::cosine_similarity(tokens.to(torch::kFloat64), job.expected.to(torch::kFloat64), 1);
      smallest = std::min(smallest, cosine.min().item<double>());
    }
    return smallest;
  }

  std::string folder_;
  std::vector<Job> jobs_;
  Json list_ = Json::array();
};

TEST_F(OnnxRuntime, FiftyPicturesOfMixedShapesEqualTheTrainer) {
  Random random({41});
  const auto parts = tiny_vision_parts();
  std::map<std::string, std::unique_ptr<VisionPart>> visions;
  for (const auto& [name, config] : parts) {
    save_tiny_vision(config, file(name));
    visions[name] = std::make_unique<VisionPart>(file(name));
  }
  for (int i = 0; i < kPictures; ++i) {
    auto part = std::next(visions.begin(), i % static_cast<int>(visions.size()));
    add_picture(*part->second, part->first, "fp16", random);
  }
  const double cosine = run();
  EXPECT_GE(cosine, 0.9999) << read_file(file("run.txt"));
  RecordProperty("smallest_cosine", fmt::format("{:.7f}", cosine));
  fmt::print("{}slices {}, smallest cosine {:.7f}\n", read_file(file("run.txt")), jobs_.size(), cosine);
}

TEST_F(OnnxRuntime, OneWeightThatDiffersShows) {
  Random random({42});
  save_tiny_vision(tiny_vision_parts().at("bucketed, resampler"), file("part"));
  VisionPart vision(file("part"));
  const OnnxVisionForm form{{4, 4}, 16, "fp16", {}};
  write_onnx(vision_graph(vision, form), file("before.onnx"));
  torch::Tensor weight = vision.weight("vision_encoder.blocks.0.attn.out_proj.bias");
  weight[5] += 3.0;
  ImageSlice slice{16, 16, std::vector<float>(3 * 16 * 16)};
  for (float& value : slice.pixels) value = static_cast<float>(random.normal());
  add(vision, slice, file("before.onnx"), form);
  EXPECT_LT(run(), 0.9999);
}

/// Our own reading of QuantizeLinear and DequantizeLinear, with which the export compares, is onnxruntime's.
TEST_F(OnnxRuntime, EightBitsAreReadAlike) {
  for (const auto& [name, config] : tiny_vision_parts()) {
    save_tiny_vision(config, file(name));
    OnnxExportOptions options;
    options.precision = "int8";
    options.grids = {{6, 6}};
    const Json report = export_vision_onnx(file(name), options, file(name + " int8"));
    VisionPart vision(file(name));
    const OnnxVisionForm form{{6, 6}, 36, "int8", {}};
    Random random({43});
    ImageSlice slice{24, 24, std::vector<float>(3 * 24 * 24)};
    for (float& value : slice.pixels) value = static_cast<float>(random.uniform() * 2 - 1);
    add(vision, slice, report["files"][0]["file"], form);
  }
  EXPECT_GT(run(), 0.97) << read_file(file("run.txt"));
}

}  // namespace
}  // namespace pocketvlm
