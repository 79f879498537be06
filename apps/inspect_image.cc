#include "apps/inspect_image.h"

#include <fmt/format.h>

#include <cstdio>
#include <span>

#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "data/preprocess/resize.h"
#include "model/config.h"

namespace pocketvlm {
namespace {

void draw_line(Image& image, int x0, int y0, int x1, int y1) {
  for (int y = y0; y <= y1; ++y) {
    for (int x = x0; x <= x1; ++x) {
      if (x < 0 || y < 0 || x >= image.width || y >= image.height) continue;
      std::uint8_t* pixel = image.at(x, y);
      pixel[0] = 255, pixel[1] = 32, pixel[2] = 96;
    }
  }
}

/// The refined picture (or the overview) with the borders of its tiles.
Image draw_slices(const Image& image, const SlicePlan& plan) {
  const PixelSize size = plan.grid ? plan.refine : plan.overview;
  Image drawn = resize_bicubic(image, size.width, size.height);
  const int columns = plan.grid ? plan.grid->columns : 1;
  const int rows = plan.grid ? plan.grid->rows : 1;
  for (int column = 0; column <= columns; ++column) {
    const int x = std::min(column * size.width / columns, size.width - 1);
    draw_line(drawn, x - 1, 0, x, size.height - 1);
  }
  for (int row = 0; row <= rows; ++row) {
    const int y = std::min(row * size.height / rows, size.height - 1);
    draw_line(drawn, 0, y - 1, size.width - 1, y);
  }
  return drawn;
}

void write_slices(const ProcessedImage& processed, const std::string& path) {
  std::vector<TensorToWrite> tensors;
  for (std::size_t i = 0; i < processed.slices.size(); ++i) {
    const ImageSlice& slice = processed.slices[i];
    tensors.push_back({fmt::format("slice.{}", i), "F32", {3, slice.height, slice.width}, [&slice] {
                         return std::as_bytes(std::span(slice.pixels));
                       }});
  }
  write_safetensors(path, tensors);
}

}  // namespace

void inspect_image(const CommandLine& line) {
  ModelConfig model = load_model_config(line.model);
  if (line.max_slices > 0) model.image.max_slices = line.max_slices;
  const Image image = load_image(line.file, decode_options(model.image));
  const SlicePlan plan = plan_image(image.width, image.height, model.image);
  const int patch = static_cast<int>(model.image.patch_size);

  Json slices = Json::array();
  const auto add = [&](PixelSize size) {
    slices.push_back({{"size", {size.width, size.height}}, {"patches", {size.height / patch, size.width / patch}}});
  };
  add(plan.overview);
  for (int i = 1; i < plan.num_slices(); ++i) add(plan.tile());
  Json report = {{"width", image.width},
                 {"height", image.height},
                 {"overview", {plan.overview.width, plan.overview.height}},
                 {"grid", nullptr},
                 {"refine", nullptr},
                 {"slices", slices},
                 {"visual_tokens", plan.num_slices() * model.prompt.num_queries},
                 {"layout", describe_image_layout(model.prompt, plan)}};
  if (plan.grid) {
    report["grid"] = {plan.grid->columns, plan.grid->rows};
    report["refine"] = {plan.refine.width, plan.refine.height};
  }
  if (!line.out.empty()) write_slices(process_image(image, model.image), line.out);
  if (!line.png.empty()) write_file_atomic(line.png, encode_png(draw_slices(image, plan)));
  if (line.json) {
    std::fputs((report.dump() + "\n").c_str(), stdout);
  } else {
    fmt::print("{} x {} -> overview {} x {}, {} slices, {} visual tokens\n{}\n",
               image.width, image.height, plan.overview.width, plan.overview.height,
               plan.num_slices(), report["visual_tokens"].get<std::int64_t>(), report["layout"].get<std::string>());
  }
}

}  // namespace pocketvlm
