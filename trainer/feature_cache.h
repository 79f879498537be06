#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <vector>

#include "model/vision_language_model.h"

namespace pocketvlm {

/// Features of picture slices under a frozen vision encoder, by content: a slice that was seen before is not encoded again. Those not
/// seen for longest give way when memory is full.
///
/// A slice that is missing is encoded alone, so that its features do not depend on what else is in the batch or in the cache
/// (products may round differently with other numbers of rows). Where the model's quirk makes features depend on the longest
/// slice of a call (encode_strips), that length is part of the key.
class FeatureCache {
 public:
  /// model: its encoder's weights must stay as they are; it must outlive the cache.
  /// bytes: of features held, in compute dtype, on the host
  FeatureCache(VisionLanguageModel model, int64_t bytes);

  /// What model.vision_features() computes. patches [patches, 3 * patch * patch]; returns [patches, vision_hidden] on their device.
  torch::Tensor features(const torch::Tensor& patches, const std::vector<std::array<int64_t, 2>>& grids);

  int64_t num_seen() const { return seen_; }    // slices asked for
  int64_t num_found() const { return found_; }  // of them, those that were there
  int64_t bytes() const { return bytes_; }      // held now

 private:
  /// Two 64-bit hashes of the patches; rows, columns, longest slice of the call (0: does not matter), compute dtype.
  using Key = std::array<uint64_t, 6>;
  struct Entry {
    Key key;
    torch::Tensor features;  // [rows * columns, vision_hidden]
  };
  Key key_of(const torch::Tensor& patches, const std::array<int64_t, 2>& grid, int64_t longest) const;
  void keep(const Key& key, const torch::Tensor& features);

  VisionLanguageModel model_;
  int64_t capacity_, bytes_ = 0, seen_ = 0, found_ = 0;
  std::list<Entry> entries_;  // the one used last in front
  std::map<Key, std::list<Entry>::iterator> by_key_;
};

}  // namespace pocketvlm
