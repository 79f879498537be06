#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "model/released/zip_file.h"

namespace pocketvlm {

/// A PyTorch weight file (pytorch_model.bin): a dictionary of names and tensors in the zip form of torch.save, mapped. A tensor is a
/// stretch of the file; one that is a view with other strides (a transposed weight) is a copy in a temporary file. A pickle is a
/// program for a machine that can call any Python function. This reader knows the handful of words that build dictionaries, tuples
/// and tensors; whatever else a file asks for is an Error that names it. Nothing is ever called.
///
/// Throws Error naming the file when it is of another form, holds anything but tensors under names, or a tensor lies outside its
/// storage or repeats its elements (stride 0).
class PickledWeights {
 public:
  explicit PickledWeights(const std::string& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  ZipFile zip_;
  std::vector<MappedFile> copies_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace pocketvlm
