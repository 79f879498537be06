#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "model/released/pickled_weights.h"

namespace pocketvlm {

/// Shards are cut where the next tensor would make them larger than this, as the hub's tools do.
constexpr std::int64_t kMaxShardBytes = 5'000'000'000;

/// Writes `model.safetensors`, or `model-00001-of-0000N.safetensors` ... with `model.safetensors.index.json` when the tensors need
/// more than one shard.
void write_weights(const std::string& folder,
                   const std::vector<TensorToWrite>& tensors,
                   std::int64_t max_shard_bytes = kMaxShardBytes);

/// The one stretch of mapped files that is being read: naming the next one gives the pages of the last one back, so that memory
/// stays at one tensor however large the files are.
class PageWindow {
 public:
  /// `bytes` must lie in a read-only mapped file.
  void move_to(std::span<const std::byte> bytes);

 private:
  std::span<const std::byte> last_;
};

/// Throws Error naming `where` and the element when a tensor of a float type holds NaN or infinity.
void check_finite(const TensorView& tensor, const std::string& where);

/// True when the folder has no safetensors, but PyTorch .bin files.
bool holds_pickled_weights(const std::string& folder);

/// All tensors of a folder: safetensors, or else PyTorch .bin files; one file, or the shards of an index.
class WeightFolder {
 public:
  /// Throws Error when a file is missing or damaged, a tensor stands in two files, or a shard lies outside the folder.
  explicit WeightFolder(const std::string& folder);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  void read_pickled(const std::string& folder);

  std::optional<SafetensorsFolder> safetensors_;
  std::vector<PickledWeights> pickled_;
  std::map<std::string, TensorView> tensors_;
};

/// Where the tensors of a folder are, so that errors name the file.
class ShardMap {
 public:
  /// Throws Error when the index of the folder names shards that are not there, or when the folder holds no weights at all.
  explicit ShardMap(const std::string& folder);
  /// "FILE: tensor NAME"
  std::string place(const std::string& tensor) const;

 private:
  std::string folder_;
  std::string file_;                          // of all tensors, without an index
  std::map<std::string, std::string> files_;  // by tensor; empty without an index
};

/// A folder that appears under its name only when it is complete: written beside it, renamed by commit(), removed when the
/// work fails. An existing folder is replaced only when it is empty or holds `marker`, a file that tells what this program writes
/// from everything else; an empty marker replaces nothing.
class NewFolder {
 public:
  NewFolder(const std::string& path, const std::string& marker);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  const std::string& path() const { return temporary_; }
  void commit();

 private:
  std::string target_;
  std::string temporary_;
};

}  // namespace pocketvlm
