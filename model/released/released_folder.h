#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/released/weight_files.h"

/// Released folders in and out. An imported folder is an ordinary checkpoint (config.json, weights under our names, tokenizer)
/// with a folder `released/` beside the weights: the release's own config.json and small files, byte for byte, and the tensors
/// that the model never reads. Everything streams tensor by tensor; every tensor keeps its dtype and its bits.
namespace pocketvlm {

/// Marks an imported folder; says which family its names are of.
constexpr const char* kReleasedFolder = "released";

struct ImportOptions {
  bool allow_nonfinite = false;
  std::int64_t max_shard_bytes = kMaxShardBytes;
};

/// What went through, for people and scripts.
struct FolderSummary {
  std::string family;
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;
};

/// Reads a released folder and writes a checkpoint folder. Throws Error, and leaves nothing behind, when the folder is damaged or
/// of an unknown architecture, or when tensors are missing, unexpected or of the wrong shape (all listed by name).
FolderSummary import_released(const std::string& folder, const std::string& out, const ImportOptions& options = {});

/// Writes a checkpoint folder back in the released layout. `source`: the imported folder whose `released/` says what the release
/// had beside the weights; empty: `folder` itself. (A checkpoint that was trained on has no `released/` of its own.)
FolderSummary save_released(const std::string& folder,
                            const std::string& source,
                            const std::string& out,
                            const ImportOptions& options = {});

}  // namespace pocketvlm
