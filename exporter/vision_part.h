#pragma once

#include <map>
#include <string>

#include "model/projector.h"
#include "model/vision_encoder.h"

namespace pocketvlm {

/// Vision encoder and projector of a checkpoint, float32, without the language model: an 8B checkpoint needs the memory of its
/// vision side alone.
class VisionPart {
 public:
  /// Throws Error naming the tensor that is missing, misshapen, or holds NaN or infinity.
  explicit VisionPart(const std::string& checkpoint_folder);

  const ModelConfig& config() const { return config_; }

  /// By the checkpoint's names; also what a projector keeps in buffers.
  const torch::Tensor& weight(const std::string& name) const;

  /// Whether slices are encoded as padded strips (2.5 as released): a slice's features then depend on the longest of its request.
  bool strips() const { return config_.vision.strip_quirk && config_.compat == "released"; }

  /// Visual tokens [queries, hidden] of one slice, as the trainer computes them in float32.
  ///   patches [rows * columns, 3 * patch * patch]; longest: patches of the longest slice of the request, where strips()
  torch::Tensor visual_tokens(const torch::Tensor& patches, const std::array<int64_t, 2>& grid, int64_t longest);

 private:
  ModelConfig config_;
  VisionEncoder encoder_{nullptr};
  std::shared_ptr<ProjectorImpl> projector_;
  std::map<std::string, torch::Tensor> weights_;
};

}  // namespace pocketvlm
