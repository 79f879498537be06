#include "exporter/onnx_export.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "data/preprocess/resize.h"
#include "exporter/onnx_runner.h"
#include "exporter/onnx_vision.h"
#include "exporter/parity.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;
using Grid = std::array<int64_t, 2>;

constexpr int64_t kCalibrationPictures = 12;
constexpr int64_t kComparedPictures = 6;

/// A picture as one slice of a grid: squashed to its size.
ImageSlice slice_for(const Image& picture, const Grid& grid, const ImageConfig& config) {
  const auto width = static_cast<int>(grid[1] * config.patch_size), height = static_cast<int>(grid[0] * config.patch_size);
  const Image resized = resize_bicubic(picture, width, height);
  ImageSlice slice{width, height, std::vector<float>(static_cast<std::size_t>(3) * width * height)};
  const auto plane = static_cast<std::size_t>(width) * height;
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const auto mean = static_cast<float>(config.mean[channel]), deviation = static_cast<float>(config.std[channel]);
    for (std::size_t i = 0; i < plane; ++i) {
      slice.pixels[channel * plane + i] = (static_cast<float>(resized.rgb[3 * i + channel]) / 255.0F - mean) / deviation;
    }
  }
  return slice;
}

torch::Tensor as_pixels(const ImageSlice& slice) { return torch::tensor(slice.pixels).view({1, 3, slice.height, slice.width}); }

torch::Tensor as_patches(const ImageSlice& slice, int64_t patch) {
  PatchValues patches;
  append_patches(slice, static_cast<int>(patch), patches);
  return torch::tensor(torch::ArrayRef<float>(patches)).view({-1, 3 * patch * patch});
}

std::vector<Grid> grids_of(const OnnxExportOptions& options, const ImageConfig& config) {
  if (!options.grids.empty()) return options.grids;
  std::vector<Grid> grids;
  const auto add = [&](int width, int height) {
    const Grid grid = {height / config.patch_size, width / config.patch_size};
    if (std::find(grids.begin(), grids.end(), grid) == grids.end()) grids.push_back(grid);
  };
  for (const Image& picture : options.pictures) {
    for (const ImageSlice& slice : process_image(picture, config).slices) add(slice.width, slice.height);
  }
  if (grids.empty()) {
    const auto side = static_cast<int>(config.mode == "slices" ? config.scale_resolution : config.image_size);
    add(side, side);
  }
  return grids;
}

std::map<std::string, ValueRange> calibrate(const VisionPart& vision, OnnxVisionForm form, const std::vector<Image>& pictures) {
  form.precision = "fp32";
  const OnnxGraph graph = vision_graph(vision, form);
  const OnnxRunner runner(graph);
  std::map<std::string, ValueRange> ranges;
  for (const Image& picture : pictures) {
    runner.run(as_pixels(slice_for(picture, form.grid, vision.config().image)), [&](const std::string& name, const torch::Tensor& value) {
      ValueRange& range = ranges[name];
      range.low = std::min(range.low, value.min().item<float>());
      range.high = std::max(range.high, value.max().item<float>());
    });
  }
  return ranges;
}

/// Smallest and mean cosine of a visual token over pictures.
struct Agreement {
  double smallest = 1.0;
  double sum = 0.0;
  int64_t tokens = 0;
};

Agreement compare(VisionPart& vision, const OnnxVisionForm& form, const std::string& path, const std::vector<Image>& pictures) {
  const OnnxGraph written = read_onnx(path);
  const OnnxRunner runner(written);
  Agreement agreement;
  for (const Image& picture : pictures) {
    const ImageSlice slice = slice_for(picture, form.grid, vision.config().image);
    const torch::Tensor x = runner.run(as_pixels(slice)).to(torch::kFloat64);
    const torch::Tensor y =
        vision.visual_tokens(as_patches(slice, vision.config().image.patch_size), form.grid, form.longest).to(torch::kFloat64);
    const torch::Tensor cosine = (x * y).sum(1) / (x.norm(2, 1) * y.norm(2, 1)).clamp_min(1e-30);
    const double smallest = cosine.min().item<double>();
    if (!(smallest >= agreement.smallest)) agreement.smallest = smallest;  // NaN is the smallest
    agreement.sum += cosine.sum().item<double>();
    agreement.tokens += cosine.numel();
  }
  return agreement;
}

/// Pictures to calibrate with, and others to compare on.
struct Pictures {
  std::vector<Image> calibration;
  std::vector<Image> compared;
};

Pictures choose_pictures(const OnnxExportOptions& options) {
  Pictures pictures;
  if (options.pictures.empty()) {
    for (Image& picture : calibration_pictures(kCalibrationPictures + kComparedPictures)) {
      auto& part = static_cast<int64_t>(pictures.calibration.size()) < kCalibrationPictures ? pictures.calibration : pictures.compared;
      part.push_back(std::move(picture));
    }
    return pictures;
  }
  for (std::size_t i = 0; i < options.pictures.size(); ++i) {
    (i % 3 == 2 ? pictures.compared : pictures.calibration).push_back(options.pictures[i]);
  }
  if (pictures.compared.empty()) pictures.compared = pictures.calibration;  // one or two pictures serve for both
  return pictures;
}

}  // namespace

std::array<int64_t, 2> parse_grid(const std::string& text) {
  std::array<int64_t, 2> grid = {};
  const char* end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, grid[0]);
  const bool crossed = rows.ec == std::errc() && rows.ptr != end && *rows.ptr == 'x';
  const auto columns = crossed ? std::from_chars(rows.ptr + 1, end, grid[1]) : rows;
  PV_CHECK(crossed && columns.ec == std::errc() && columns.ptr == end && grid[0] > 0 && grid[1] > 0,
           "--onnx-grid {}: expected ROWSxCOLUMNS of patches, such as 32x32", text);
  return grid;
}

Json export_vision_onnx(const std::string& checkpoint_folder, const OnnxExportOptions& options, const std::string& folder) {
  VisionPart vision(checkpoint_folder);
  const ImageConfig& image = vision.config().image;
  PV_CHECK(options.longest == 0 || vision.strips(),
           "--onnx-longest: has no effect, slices of this checkpoint do not depend on each other; leave it out");
  make_folders(folder);
  const Pictures pictures = choose_pictures(options);
  const double bound = options.precision == "int8" ? options.min_cosine_int8 : options.min_cosine;
  Json files = Json::array();
  bool all_passed = true;
  for (const Grid& grid : grids_of(options, image)) {
    OnnxVisionForm form;
    form.grid = grid;
    form.longest = options.longest > 0 ? options.longest : grid[0] * grid[1];
    form.precision = options.precision;
    if (form.precision == "int8") form.ranges = calibrate(vision, form, pictures.calibration);
    const std::string path = (fs::path(folder) / fmt::format("vision-{}x{}-{}.onnx", grid[0], grid[1], form.precision)).string();
    write_onnx(vision_graph(vision, form), path);
    const Agreement agreement = compare(vision, form, path, pictures.compared);
    const bool passed = agreement.smallest >= bound;
    all_passed &= passed;
    spdlog::info("{}: cosine {:.6f} against the trainer", path, agreement.smallest);
    files.push_back({{"file", path},
                     {"grid", grid},
                     {"bytes", fs::file_size(path)},
                     {"cosine", agreement.smallest},
                     {"mean_cosine", agreement.sum / static_cast<double>(agreement.tokens)},
                     {"pictures", pictures.compared.size()},
                     {"passed", passed}});
  }
  Json report = {{"passed", all_passed},
                 {"precision", options.precision},
                 {"required_cosine", bound},
                 {"input", {{"name", "pixels"}, {"layout", "1, RGB, height, width"}, {"mean", image.mean}, {"std", image.std}}},
                 {"output", {{"name", "visual_tokens"}, {"shape", {vision.config().projector.num_queries, vision.config().language.hidden}}}},
                 {"files", files}};
  write_json((fs::path(folder) / fmt::format("vision-onnx-{}.json", options.precision)).string(), report);
  return report;
}

}  // namespace pocketvlm
