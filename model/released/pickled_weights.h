#pragma once

#include <map>
#include <string>

#include "base/safetensors.h"
#include "model/released/zip_file.h"

namespace pocketvlm {

/// A PyTorch weight file (pytorch_model.bin): a dictionary of names and tensors in the zip form of torch.save, mapped; a tensor is a
/// stretch of the file. A pickle is a program for a machine that can call any Python function. This reader knows the handful of
/// words that build dictionaries, tuples and tensors; whatever else a file asks for is an Error that names it. Nothing is ever called.
///
/// Throws Error naming the file when it is of another form, holds anything but tensors under names, a tensor lies outside its
/// storage or is not contiguous.
class PickledWeights {
 public:
  explicit PickledWeights(const std::string& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  ZipFile zip_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace pocketvlm
