#include "tests/model/golden_release.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "data/preprocess/image_processor.h"
#include "tests/data/preprocess/image_golden.h"

namespace pocketvlm {
namespace {

torch::Dtype dtype_of(const std::string& name) {
  return name == "F32" ? torch::kFloat32 : name == "BF16" ? torch::kBFloat16 : torch::kFloat16;
}

OwnedTensor owned(const torch::Tensor& values, const std::string& dtype) {
  const torch::Tensor stored = values.to(dtype_of(dtype)).contiguous();
  return {dtype, values.sizes().vec(), std::string(static_cast<const char*>(stored.data_ptr()), stored.nbytes())};
}

torch::Tensor stream_tensor(const std::string& name, std::int64_t count) {
  const std::vector<double> values = GoldenRelease::stream(name, count);
  return torch::tensor(values, torch::kFloat64);
}

}  // namespace

torch::Tensor values_of(const OwnedTensor& tensor) {
  return torch::from_blob(const_cast<char*>(tensor.bytes.data()), tensor.shape, torch::TensorOptions().dtype(dtype_of(tensor.dtype)))
      .to(torch::kFloat64);
}

GoldenRelease::GoldenRelease(const std::string& family)
    : file_(fmt::format("{}/model/golden/{}.safetensors", TEST_DATA, family)),
      config_(parse_json(file_.metadata().at("config"), family)) {
  const std::string dtype = file_.metadata().at("dtype");
  const Json rows = parse_json(file_.metadata().at("tensors"), family);
  for (const Json& row : rows) {
    const auto name = row["name"].get<std::string>();
    const auto shape = row["shape"].get<std::vector<std::int64_t>>();
    if (row.contains("fixed")) {
      tensors_[name] = owned(expected("fixed." + name), dtype);
      continue;
    }
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    const torch::Tensor values = stream_tensor(name, count) * row["spread"].get<double>() + row["centre"].get<double>();
    tensors_[name] = owned(values.to(torch::kFloat32).view(shape), dtype);
  }
}

torch::Tensor GoldenRelease::expected(const std::string& name) const {
  const TensorView& view = file_.at(name);
  return torch::from_blob(const_cast<std::byte*>(view.bytes.data()), view.shape, torch::kFloat32).clone();
}

Batch GoldenRelease::batch(const ImageConfig& image) const {
  const Json segments = parse_json(file_.metadata().at("segments"), "segments");
  PackedBatch packed;
  const auto patch = static_cast<int>(image.patch_size);
  for (const Json& segment : segments) {
    const auto ids = segment["ids"].get<std::vector<std::int64_t>>();
    const auto weights = segment["loss_weights"].get<std::vector<float>>();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0) {
        packed.visual_rows.push_back(static_cast<std::int64_t>(packed.visual_rows.size()));
        packed.visual_positions.push_back(static_cast<std::int64_t>(packed.input_ids.size()));
      }
      packed.input_ids.push_back(std::max<std::int64_t>(ids[i], 0));
      packed.position_ids.push_back(static_cast<std::int64_t>(i));
      packed.labels.push_back(weights[i] > 0 ? ids[i + 1] : -100);
      packed.loss_weights.push_back(weights[i]);
    }
    packed.segment_lengths.push_back(static_cast<std::int64_t>(ids.size()));
    for (const Json& picture : segment["pictures"]) {
      const Image pixels = pattern(picture[0].get<int>(), picture[1].get<int>(), picture[2].get<std::uint32_t>());
      for (const ImageSlice& slice : process_image(pixels, image).slices) {
        packed.grids.push_back({slice.height / patch, slice.width / patch});
        append_patches(slice, patch, packed.patches);
      }
    }
  }
  EXPECT_EQ(Json(packed.grids), parse_json(file_.metadata().at("grids"), "grids"));
  EXPECT_EQ(checksum(packed.patches), file_.metadata().at("patches_crc32"));
  return to_batch(packed);
}

std::vector<double> GoldenRelease::stream(const std::string& name, std::int64_t count) {
  std::uint64_t key = 0xcbf29ce484222325ULL;
  for (const char c : name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t z = key + static_cast<std::uint64_t>(i + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    values.push_back(static_cast<double>(z >> 40) / (1 << 23) - 1.0);
  }
  return values;
}

OwnedTensor perturbed(const OwnedTensor& tensor, const std::string& name) {
  const torch::Tensor values = values_of(tensor);
  const torch::Tensor noise = stream_tensor(name + ".noise", values.numel()).view(values.sizes());
  return owned(values + noise * 0.1 * values.abs().max(), tensor.dtype);
}

OwnedTensor swapped(const OwnedTensor& tensor, std::int64_t first, std::int64_t size, bool columns) {
  const torch::Tensor values = values_of(tensor).clone();
  const int64_t dim = columns ? 1 : 0;
  const torch::Tensor before = values.narrow(dim, first, 2 * size).clone();
  values.narrow(dim, first, size).copy_(before.narrow(dim, size, size));
  values.narrow(dim, first + size, size).copy_(before.narrow(dim, 0, size));
  return owned(values, tensor.dtype);
}

}  // namespace pocketvlm
