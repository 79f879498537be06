#include "trainer/contrastive.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/embedding_bag.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_sigmoid.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr double kFirstTemperature = 10.0;
constexpr double kFirstBias = -10.0;
constexpr double kEmbeddingStd = 0.02;
constexpr int64_t kEmbeddingBagMean = 1;  // the number of this mode in LibTorch's interface

torch::Tensor unit_rows(const torch::Tensor& x) {
  return x / x.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
}

torch::Tensor int64_tensor(const std::vector<int64_t>& values, torch::Device device) {
  return torch::tensor(values, torch::kInt64).to(device);
}

}  // namespace

ContrastiveBatch to_contrastive_batch(const PackedBatch& packed, torch::Device device) {
  const std::size_t num_slices = packed.grids.size();
  std::size_t total_patches = 0;
  for (const auto& [rows, columns] : packed.grids)
    total_patches += static_cast<std::size_t>(rows * columns);
  const std::size_t patch_values = total_patches == 0 ? 0 : packed.patches.size() / total_patches;

  ContrastiveBatch batch;
  PatchValues patches;
  std::vector<int64_t> ids, offsets;
  std::map<std::vector<int64_t>, int64_t> numbers;  // of the distinct texts
  std::vector<int64_t> text_number;
  std::size_t token = 0, slice = 0, patch = 0;
  for (std::size_t segment = 0; segment < packed.segment_lengths.size(); ++segment) {
    std::vector<int64_t> text;
    for (const std::size_t end = token + static_cast<std::size_t>(packed.segment_lengths[segment]);
         token < end;
         ++token) {
      if (packed.labels[token] >= 0) text.push_back(packed.labels[token]);
    }
    const std::size_t first_slice = slice, first_patch = patch;
    for (int64_t i = 0; i < packed.segment_slices[segment] && slice < num_slices; ++i, ++slice) {
      patch += static_cast<std::size_t>(packed.grids[slice][0] * packed.grids[slice][1]);
    }
    if (text.empty() || patch == first_patch) continue;
    batch.grids.insert(batch.grids.end(),
                       packed.grids.begin() + static_cast<std::ptrdiff_t>(first_slice),
                       packed.grids.begin() + static_cast<std::ptrdiff_t>(slice));
    batch.patches_per_image.push_back(static_cast<int64_t>(patch - first_patch));
    patches.insert(patches.end(),
                   packed.patches.begin() + static_cast<std::ptrdiff_t>(first_patch * patch_values),
                   packed.patches.begin() + static_cast<std::ptrdiff_t>(patch * patch_values));
    offsets.push_back(static_cast<int64_t>(ids.size()));
    ids.insert(ids.end(), text.begin(), text.end());
    text_number.push_back(
        numbers.emplace(std::move(text), static_cast<int64_t>(numbers.size())).first->second);
  }
  PV_CHECK(batch.num_images() > 0,
           "contrastive objective: a pack of {} samples has no picture with a text; use captions "
           "of pictures",
           packed.segment_lengths.size());
  const auto rows = static_cast<int64_t>(patches.size() / patch_values);
  batch.patches =
      torch::tensor(torch::ArrayRef<float>(patches)).view({rows, static_cast<int64_t>(patch_values)}).to(device);
  batch.text_ids = int64_tensor(ids, device);
  batch.text_offsets = int64_tensor(offsets, device);
  const torch::Tensor number = int64_tensor(text_number, device);
  batch.same_text = number.unsqueeze(1).eq(number.unsqueeze(0)).to(torch::kFloat32);
  return batch;
}

ContrastiveHeadsImpl::ContrastiveHeadsImpl(int64_t vocab, int64_t hidden, uint64_t seed) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const double projection_std = 1.0 / std::sqrt(static_cast<double>(hidden));
  text_embedding_ = register_parameter("text_embedding",
                                       torch::randn({vocab, hidden}, generator) * kEmbeddingStd);
  text_projection_ = register_parameter("text_projection",
                                        torch::randn({hidden, hidden}, generator) * projection_std);
  image_projection_ = register_parameter(
      "image_projection", torch::randn({hidden, hidden}, generator) * projection_std);
  log_temperature = register_parameter("log_temperature",
                                       torch::tensor(std::log(kFirstTemperature), torch::kFloat32));
  bias = register_parameter("bias", torch::tensor(kFirstBias, torch::kFloat32));
}

torch::Tensor ContrastiveHeadsImpl::image_features(const torch::Tensor& features,
                                                   const std::vector<int64_t>& patches_per_image) {
  const bool equal =
      std::equal(patches_per_image.begin() + 1, patches_per_image.end(), patches_per_image.begin());
  const torch::Tensor wide = features.to(torch::kFloat32);
  torch::Tensor means;
  if (equal) {
    const auto images = static_cast<int64_t>(patches_per_image.size());
    means = wide.view({images, patches_per_image.front(), wide.size(1)}).mean(1);
  } else {
    std::vector<torch::Tensor> rows;
    for (const torch::Tensor& image : wide.split_with_sizes(patches_per_image))
      rows.push_back(image.mean(0));
    means = torch::stack(rows);
  }
  return unit_rows(at::linear(means, image_projection_));
}

torch::Tensor ContrastiveHeadsImpl::text_features(const torch::Tensor& text_ids,
                                                  const torch::Tensor& text_offsets) {
  const torch::Tensor means = std::get<0>(at::embedding_bag(text_embedding_,
                                                            text_ids,
                                                            text_offsets,
                                                            /*scale_grad_by_freq=*/false,
                                                            kEmbeddingBagMean));
  return unit_rows(at::linear(means, text_projection_));
}

torch::Tensor sigmoid_contrastive_loss(const torch::Tensor& images,
                                       const torch::Tensor& texts,
                                       const torch::Tensor& log_temperature,
                                       const torch::Tensor& bias,
                                       const torch::Tensor& same_text) {
  const torch::Tensor logits = torch::matmul(images, texts.t()) * log_temperature.exp() + bias;
  return -at::log_sigmoid(logits * (2.0 * same_text - 1.0)).sum();
}

}  // namespace pocketvlm
