#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/safetensors.h"

namespace pocketvlm {

/// One tensor of a made-up release, with bytes of its own.
struct OwnedTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
using OwnedTensors = std::map<std::string, OwnedTensor>;

/// config.json of a family with small dimensions, with the keys that the released files have.
Json tiny_release_config(const std::string& family);

/// Every tensor of that release, random and finite. Names and shapes are written down here from the architecture sheets, not
/// taken from the program's table.
OwnedTensors tiny_release_tensors(const std::string& family, const std::string& dtype = "BF16");

/// Writes a released folder. `shards` > 1 splits the tensors and writes the index.
void write_release(const std::string& folder, const Json& config, const OwnedTensors& tensors, int shards = 1);

/// All tensors of a folder, copied.
OwnedTensors read_tensors(const std::string& folder);

/// "minicpmv-1.0" ... "mobilevlm-v2".
std::vector<std::string> release_families();

}  // namespace pocketvlm
