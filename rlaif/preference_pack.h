#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "model/vision_language_model.h"
#include "rlaif/pairs.h"

namespace pocketvlm {

/// Reads the picture of a pair by its index in the source.
using PictureReader = std::function<Image(std::int64_t index)>;

/// A pair as two token sequences about one picture.
struct EncodedPair {
  EncodedSample chosen, rejected;
};
EncodedPair encode_pair(const PreferencePair& pair,
                        const Image& image,
                        const PromptEncoder& encoder);

/// Packs pairs as neighbouring segments (chosen, rejected) that share the picture's visual rows, at
/// most `pack_tokens` a pack (one pair always fits).
std::vector<PackedBatch> pack_pairs(std::vector<EncodedPair> pairs, std::int64_t pack_tokens);

/// A pack with the pairs that are in it.
struct PairPack {
  PackedBatch batch;
  std::vector<std::size_t> pairs;
};

/// Reads, encodes and packs the pairs named by `indices`, in this order.
std::vector<PairPack> make_packs(const std::vector<PreferencePair>& pairs,
                                 const std::vector<std::size_t>& indices,
                                 const PictureReader& picture,
                                 const PromptEncoder& encoder,
                                 std::int64_t pack_tokens);

/// Summed log-probs of each segment's targets, [segments] float32: one packed forward, which
/// reference and policy share. Carries a graph unless guarded.
torch::Tensor segment_log_probs(VisionLanguageModel& model,
                                const PackedBatch& pack,
                                torch::Device device);

}  // namespace pocketvlm
