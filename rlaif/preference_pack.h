#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "model/vision_language_model.h"
#include "rlaif/pairs.h"
#include "rlaif/shared_pack.h"

namespace pocketvlm {

/// Reads the picture of a pair by its index in the source.
using PictureReader = std::function<Image(std::int64_t index)>;

/// A pair as two token sequences about one picture, whose pixels are sliced once: the rejected answer has an outline of it. Of a single
/// answer the other sequence is empty.
struct EncodedPair {
  EncodedSample chosen, rejected;
};
EncodedPair encode_pair(const PreferencePair& pair,
                        const Image& image,
                        const PromptEncoder& encoder);

/// Pairs as segments of one forward. Without `share_prompt` a pair is two segments (chosen, rejected)
/// that share the picture's visual rows; with it a pair is three: what the two begin with, and the
/// two rests. Token weights of the config stand in `loss_weights`.
struct PairPack {
  BranchedBatch branched;
  std::vector<std::size_t> pairs;
  std::vector<bool> has_answer;  // chosen and rejected of each pair; a single answer is one segment

  const PackedBatch& batch() const { return branched.batch; }
};

/// Packs pairs in their order, at most `config.pack_tokens` a pack (one pair always fits).
std::vector<PairPack> pack_pairs(std::vector<EncodedPair> pairs, const PreferenceConfig& config);

/// Reads, encodes and packs the pairs named by `indices`, in this order.
std::vector<PairPack> make_packs(const std::vector<PreferencePair>& pairs,
                                 const std::vector<std::size_t>& indices,
                                 const PictureReader& picture,
                                 const PromptEncoder& encoder,
                                 const PreferenceConfig& config);

/// What one packed forward says of its pairs. [pairs, 2] (chosen, rejected) float32; 0 for an answer that is not there.
struct PackLogProbs {
  torch::Tensor sums;    // log-probs of the answers, weighted by token; divided by the weights when mean_over_tokens
  torch::Tensor plain;   // summed with all weights 1
  torch::Tensor tokens;  // of the answers
};

/// The forward that reference and policy share. Carries a graph unless guarded.
PackLogProbs pack_log_probs(VisionLanguageModel& model,
                            const PairPack& pack,
                            const PreferenceConfig& config,
                            torch::Device device);

}  // namespace pocketvlm
