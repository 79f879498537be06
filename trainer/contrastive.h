#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <vector>

#include "data/packed_batch.h"

namespace pocketvlm {

/// The pictures of a pack and their texts, side by side. Segments without a picture or without
/// target text are left out.
struct ContrastiveBatch {
  torch::Tensor patches;                      // [patches, 3 * patch * patch] float32
  std::vector<std::array<int64_t, 2>> grids;  // [slices]
  std::vector<int64_t> patches_per_image;     // [images], over all slices of the picture
  torch::Tensor text_ids;      // [text tokens] int64, the targets of all texts, one after the other
  torch::Tensor text_offsets;  // [images] int64, where each text begins in text_ids
  torch::Tensor same_text;     // [images, images] float32, 1 where two pictures have the same text
  int64_t num_images() const { return static_cast<int64_t>(patches_per_image.size()); }
};

/// Throws Error when no segment of the pack has both picture and text.
ContrastiveBatch to_contrastive_batch(const PackedBatch& packed,
                                      torch::Device device = torch::kCPU);

/// What sigmoid contrastive training puts beside the vision encoder: a linear head on the mean of a
/// picture's patch features, a small text tower (mean of token embeddings, linear), and the learned
/// temperature and bias. Dropped after the stage. Names: text_embedding [vocab, hidden],
/// text_projection and image_projection [hidden, hidden], log_temperature, bias.
class ContrastiveHeadsImpl : public torch::nn::Module {
 public:
  /// Random weights from `seed` alone; the temperature starts at 10, the bias at -10 (SigLIP,
  /// section 3.2).
  ContrastiveHeadsImpl(int64_t vocab, int64_t hidden, uint64_t seed);

  /// features [patches, hidden] (any float dtype) -> [images, hidden] float32, rows of length 1.
  torch::Tensor image_features(const torch::Tensor& features,
                               const std::vector<int64_t>& patches_per_image);
  /// -> [images, hidden] float32, rows of length 1.
  torch::Tensor text_features(const torch::Tensor& text_ids, const torch::Tensor& text_offsets);

  torch::Tensor log_temperature, bias;  // scalars

 private:
  torch::Tensor text_embedding_, text_projection_, image_projection_;
};
TORCH_MODULE(ContrastiveHeads);

/// Sigmoid loss of SigLIP (arXiv 2303.15343, algorithm 1), summed: divide by the number of images
/// outside.
///   sum over i, j of -log sigmoid(z_ij (exp(log_temperature) x_i . y_j + bias)), z_ij = 1 where
///   same_text, else -1 images, texts  [images, hidden], rows of length 1 same_text      [images,
///   images], 1 or 0
torch::Tensor sigmoid_contrastive_loss(const torch::Tensor& images,
                                       const torch::Tensor& texts,
                                       const torch::Tensor& log_temperature,
                                       const torch::Tensor& bias,
                                       const torch::Tensor& same_text);

}  // namespace pocketvlm
