#pragma once

#include <string>

#include "tests/model/released/pickled_bytes.h"
#include "tests/model/released/tiny_release.h"

namespace pocketvlm {

/// What torch.save writes for these tensors.
std::string pickled_weights(const OwnedTensors& tensors);

/// Rewrites the weights of a release (write_release) as PyTorch .bin files.
void pickle_release(const std::string& folder, const OwnedTensors& tensors, int shards = 1);

}  // namespace pocketvlm
