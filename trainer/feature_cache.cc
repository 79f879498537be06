#include "trainer/feature_cache.h"

#include <algorithm>
#include <cstring>

#include "model/layers.h"

namespace pocketvlm {
namespace {

/// Two independent lanes of multiply and shift over the bits of the numbers.
std::array<uint64_t, 2> hash_of(const torch::Tensor& numbers) {
  const torch::Tensor bits = numbers.contiguous();
  const auto* bytes = static_cast<const std::byte*>(bits.const_data_ptr());
  std::array<uint64_t, 2> hash = {0x243f6a8885a308d3ULL, 0x13198a2e03707344ULL};
  const auto mix = [&](uint64_t word) {
    hash[0] = (hash[0] ^ word) * 0x9e3779b97f4a7c15ULL;
    hash[0] ^= hash[0] >> 29;
    hash[1] = (hash[1] + word) * 0xd6e8feb86659fd93ULL;
    hash[1] ^= hash[1] >> 32;
  };
  std::size_t at = 0;
  for (; at + sizeof(uint64_t) <= bits.nbytes(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, sizeof word);
    mix(word);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, bytes + at, bits.nbytes() - at);
  mix(rest);
  mix(bits.nbytes());
  return hash;
}

}  // namespace

FeatureCache::FeatureCache(VisionLanguageModel model, int64_t bytes) : model_(std::move(model)), capacity_(bytes) {}

FeatureCache::Key FeatureCache::key_of(const torch::Tensor& patches,
                                       const std::array<int64_t, 2>& grid,
                                       int64_t longest) const {
  const std::array<uint64_t, 2> hash = hash_of(patches);
  return {hash[0],
          hash[1],
          static_cast<uint64_t>(grid[0]),
          static_cast<uint64_t>(grid[1]),
          static_cast<uint64_t>(longest),
          static_cast<uint64_t>(compute_dtype())};
}

torch::Tensor FeatureCache::features(const torch::Tensor& patches, const std::vector<std::array<int64_t, 2>>& grids) {
  const torch::NoGradGuard no_grad;
  std::vector<int64_t> lengths;
  for (const auto& grid : grids) lengths.push_back(grid[0] * grid[1]);
  const int64_t longest = model_->pads_slices() ? *std::max_element(lengths.begin(), lengths.end()) : 0;
  const std::vector<torch::Tensor> slices = patches.split_with_sizes(lengths);
  const std::vector<torch::Tensor> on_host = patches.cpu().split_with_sizes(lengths);
  std::vector<torch::Tensor> result;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    ++seen_;
    const Key key = key_of(on_host[i], grids[i], longest);
    const auto known = by_key_.find(key);
    if (known != by_key_.end()) {
      ++found_;
      entries_.splice(entries_.begin(), entries_, known->second);
      result.push_back(known->second->features.to(patches.device()));
    } else {
      result.push_back(model_->vision_features(slices[i], {grids[i]}, longest));
      keep(key, result.back().cpu());
    }
  }
  return torch::cat(result);
}

void FeatureCache::keep(const Key& key, const torch::Tensor& features) {
  const auto bytes = static_cast<int64_t>(features.nbytes());
  if (bytes > capacity_) return;
  while (bytes_ + bytes > capacity_) {
    bytes_ -= static_cast<int64_t>(entries_.back().features.nbytes());
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key, features});
  by_key_[key] = entries_.begin();
  bytes_ += bytes;
}

}  // namespace pocketvlm
