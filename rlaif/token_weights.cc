#include "rlaif/token_weights.h"

#include <algorithm>
#include <unordered_map>

namespace pocketvlm {
namespace {

constexpr std::int64_t kShortestBlock = 3;

struct Block {
  std::int64_t a, b, size;
};

class Aligner {
 public:
  Aligner(std::span<const std::int32_t> a, std::span<const std::int32_t> b) : a_(a), b_(b) {
    for (std::size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(static_cast<std::int64_t>(j));
  }

  /// Common blocks in order, neighbours joined.
  std::vector<Block> blocks() {
    std::vector<Block> found;
    collect(0, size_of(a_), 0, size_of(b_), found);
    std::vector<Block> joined;
    for (const Block& block : found) {
      if (!joined.empty() && joined.back().a + joined.back().size == block.a &&
          joined.back().b + joined.back().size == block.b) {
        joined.back().size += block.size;
      } else {
        joined.push_back(block);
      }
    }
    return joined;
  }

 private:
  static std::int64_t size_of(std::span<const std::int32_t> ids) {
    return static_cast<std::int64_t>(ids.size());
  }

  // The longest common block inside the windows; of several the first in a, then the first in b.
  Block longest(std::int64_t a_low, std::int64_t a_high, std::int64_t b_low, std::int64_t b_high) {
    Block best = {a_low, b_low, 0};
    std::unordered_map<std::int64_t, std::int64_t> ends;  // place in b -> length of the block that ends there
    for (std::int64_t i = a_low; i < a_high; ++i) {
      std::unordered_map<std::int64_t, std::int64_t> now;
      const auto found = places_.find(a_[static_cast<std::size_t>(i)]);
      if (found != places_.end()) {
        for (const std::int64_t j : found->second) {
          if (j < b_low) continue;
          if (j >= b_high) break;
          const auto before = ends.find(j - 1);
          const std::int64_t size = now[j] = (before == ends.end() ? 0 : before->second) + 1;
          if (size > best.size) best = {i - size + 1, j - size + 1, size};
        }
      }
      ends = std::move(now);
    }
    return best;
  }

  void collect(std::int64_t a_low,
               std::int64_t a_high,
               std::int64_t b_low,
               std::int64_t b_high,
               std::vector<Block>& found) {
    const Block block = longest(a_low, a_high, b_low, b_high);
    if (block.size == 0) return;
    collect(a_low, block.a, b_low, block.b, found);
    found.push_back(block);
    collect(block.a + block.size, a_high, block.b + block.size, b_high, found);
  }

  std::span<const std::int32_t> a_, b_;
  std::unordered_map<std::int32_t, std::vector<std::int64_t>> places_;  // in b, increasing
};

}  // namespace

ChangedTokens changed_tokens(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  ChangedTokens changed = {std::vector<bool>(a.size()), std::vector<bool>(b.size())};
  std::vector<Block> blocks = Aligner(a, b).blocks();
  std::erase_if(blocks, [](const Block& block) { return block.size < kShortestBlock; });
  blocks.push_back({static_cast<std::int64_t>(a.size()), static_cast<std::int64_t>(b.size()), 0});
  std::int64_t a_end = 0;
  std::int64_t b_end = 0;
  for (const Block& block : blocks) {
    if (a_end < block.a && b_end < block.b) {
      std::fill(changed.a.begin() + a_end, changed.a.begin() + block.a, true);
      std::fill(changed.b.begin() + b_end, changed.b.begin() + block.b, true);
    }
    a_end = block.a + block.size;
    b_end = block.b + block.size;
  }
  return changed;
}

TokenWeights token_weights(std::span<const std::int32_t> chosen,
                           std::span<const std::int32_t> rejected,
                           const PreferenceConfig& config) {
  TokenWeights weights = {std::vector<float>(chosen.size(), 1.0F),
                          std::vector<float>(rejected.size(), 1.0F)};
  if (config.changed_token_weight != 1.0) {
    const ChangedTokens changed = changed_tokens(chosen, rejected);
    const auto weigh = [&](const std::vector<bool>& marks, std::vector<float>& of) {
      for (std::size_t i = 0; i < marks.size(); ++i) {
        if (marks[i]) of[i] *= static_cast<float>(config.changed_token_weight);
      }
    };
    weigh(changed.a, weights.chosen);
    weigh(changed.b, weights.rejected);
  }
  if (config.length_tail_weight != 1.0) {
    const std::size_t shared = std::min(chosen.size(), rejected.size());
    for (auto* of : {&weights.chosen, &weights.rejected}) {
      for (std::size_t i = shared; i < of->size(); ++i)
        (*of)[i] *= static_cast<float>(config.length_tail_weight);
    }
  }
  return weights;
}

}  // namespace pocketvlm
