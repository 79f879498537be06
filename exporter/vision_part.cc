#include "exporter/vision_part.h"

#include "base/error.h"
#include "base/safetensors.h"
#include "model/checkpoint.h"
#include "model/strips.h"

namespace pocketvlm {
namespace {

torch::Dtype dtype_of(const std::string& name, const std::string& where) {
  if (name == "F32") return torch::kFloat32;
  if (name == "BF16") return torch::kBFloat16;
  PV_CHECK(name == "F16", "{}: dtype {} cannot be a weight; F32, BF16 and F16 can", where, name);
  return torch::kFloat16;
}

torch::Tensor read_weight(const TensorView& view, const std::vector<int64_t>& shape, const std::string& where) {
  PV_CHECK(view.shape == shape, "{}: has the shape [{}], config.json asks for [{}]", where, fmt::join(view.shape, ", "),
           fmt::join(shape, ", "));
  const auto options = torch::TensorOptions().dtype(dtype_of(view.dtype, where));
  const torch::Tensor mapped = torch::from_blob(const_cast<std::byte*>(view.bytes.data()), view.shape, options);
  torch::Tensor weight = mapped.to(torch::kFloat32, /*non_blocking=*/false, /*copy=*/true);
  PV_CHECK(torch::isfinite(weight).all().item<bool>(), "{}: holds NaN or infinity; the checkpoint is damaged or its run diverged", where);
  return weight;
}

}  // namespace

VisionPart::VisionPart(const std::string& checkpoint_folder) : config_(load_checkpoint_config(checkpoint_folder)) {
  const PlaceholderWeights guard;
  encoder_ = VisionEncoder(config_.vision, config_.image.patch_size);
  projector_ = make_projector(config_.projector, config_.vision.hidden, config_.language.hidden);
  const SafetensorsFolder folder(checkpoint_folder);
  const auto load = [&](const std::string& prefix, torch::nn::Module& module) {
    for (auto& item : module.named_parameters()) {
      const std::string name = prefix + item.key();
      const auto found = folder.tensors().find(name);
      PV_CHECK(found != folder.tensors().end(), "{}: the tensor {} is missing", checkpoint_folder, name);
      torch::Tensor parameter = item.value();
      parameter.set_data(read_weight(found->second, parameter.sizes().vec(), checkpoint_folder + ": " + name));
      parameter.set_requires_grad(false);
      weights_[name] = parameter;
    }
    for (auto& item : module.named_buffers()) {  // a release keeps them rounded to its type; else the formula's values stay
      const std::string name = prefix + item.key();
      torch::Tensor buffer = item.value();
      const auto found = folder.tensors().find(name);
      if (found != folder.tensors().end()) buffer.copy_(read_weight(found->second, buffer.sizes().vec(), checkpoint_folder + ": " + name));
      weights_[name] = buffer;
    }
  };
  load("vision_encoder.", *encoder_);
  load("projector.", *projector_);
  encoder_->eval();
  projector_->eval();
}

const torch::Tensor& VisionPart::weight(const std::string& name) const {
  const auto found = weights_.find(name);
  TORCH_INTERNAL_ASSERT(found != weights_.end(), name);
  return found->second;
}

torch::Tensor VisionPart::visual_tokens(const torch::Tensor& patches, const std::array<int64_t, 2>& grid, int64_t longest) {
  const torch::NoGradGuard no_grad;
  const ComputeDtype guard(torch::kFloat32);
  if (!strips()) return projector_->forward(encoder_->forward(patches, {grid}), {grid});
  // An empty slice stands for the longest one: a strip is padded with nothing else.
  const torch::Tensor companion = torch::zeros({longest, patches.size(1)});
  const torch::Tensor features =
      encode_strips(encoder_, torch::cat({patches, companion}), {grid, {1, longest}}).narrow(0, 0, patches.size(0));
  return projector_->forward(features, {grid});
}

}  // namespace pocketvlm
