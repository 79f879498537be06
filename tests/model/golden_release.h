#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/safetensors.h"
#include "model/batch.h"
#include "model/config.h"
#include "tests/model/released/tiny_release.h"

namespace pocketvlm {

/// One file of tests/golden/make_model.py: a released folder of small dimensions, an input, and what the reference
/// implementations make of it.
class GoldenRelease {
 public:
  explicit GoldenRelease(const std::string& family);

  const Json& config() const { return config_; }
  /// Every tensor of the folder, by the script's formula.
  const OwnedTensors& tensors() const { return tensors_; }
  /// `output.logits`, `grad_rows.NAME` ..., float32.
  torch::Tensor expected(const std::string& name) const;
  bool has(const std::string& name) const { return file_.contains(name); }

  /// The golden input, its pictures prepared by `image`; checks slices and pixels against the reference.
  Batch batch(const ImageConfig& image) const;

  /// [count] float32 in [-1, 1): the script's stream of a name.
  static std::vector<double> stream(const std::string& name, std::int64_t count);

 private:
  SafetensorsFile file_;
  Json config_;
  OwnedTensors tensors_;
};

/// Its values, float64.
torch::Tensor values_of(const OwnedTensor& tensor);

/// The tensor with noise of up to a tenth of its largest value on every element.
OwnedTensor perturbed(const OwnedTensor& tensor, const std::string& name);

/// The first two blocks of `size` rows (or columns) exchanged, `first` rows (columns) into the tensor.
OwnedTensor swapped(const OwnedTensor& tensor, std::int64_t first, std::int64_t size, bool columns);

}  // namespace pocketvlm
