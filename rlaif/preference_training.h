#pragma once

#include <torch/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/pairs.h"
#include "rlaif/rlaif_config.h"
#include "trainer/stage.h"

namespace pocketvlm {

/// Reads the picture of a pair by its index in the source.
using PictureReader = std::function<Image(std::int64_t index)>;

/// A pair as two token sequences about one picture.
struct EncodedPair {
  EncodedSample chosen, rejected;
};
EncodedPair encode_pair(const PreferencePair& pair, const Image& image, const PromptEncoder& encoder);

/// Packs pairs as neighbouring segments (chosen, rejected) that share the picture's visual rows, at most `pack_tokens` a pack.
std::vector<PackedBatch> pack_pairs(std::vector<EncodedPair> pairs, std::int64_t pack_tokens);

/// Summed log-probs of each segment's targets, [segments] float32: one packed forward. Carries a graph unless guarded.
torch::Tensor segment_log_probs(VisionLanguageModel& model, const PackedBatch& pack, torch::Device device);

struct PreferenceResult {
  std::int64_t pairs = 0;   // used
  std::int64_t steps = 0;
  double seconds = 0;       // of the training steps
  std::map<std::string, std::int64_t> dropped;  // reason -> pairs that cannot be trained on
  std::map<std::string, double> first, last;    // metrics of the first and the last step
  std::vector<ComponentRow> components;         // what was trained, what was frozen and stayed bit-identical
  Json to_json() const;
};

/// Direct preference optimisation of `policy`, whose weights at the call are the reference, in `folder`:
///   reference.jsonl   {"key", "chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"} or {"key", "dropped"};
///                     computed once, before training, by the code that trains; key: hash of reference weights, texts, picture
///   metrics.jsonl     one line an optimizer step, named as in TRL
///   state/            resumable state (trainer/training_state.h); an interrupted call ends with the same bits
/// The order of pairs is a function of seed and epoch. Without pairs the policy is left as it is.
/// Throws Error when the loss is not finite (before the update) and when a frozen tensor changed.
PreferenceResult train_preferences(const PreferenceConfig& config,
                                   LoadedModel& policy,
                                   const std::vector<PreferencePair>& pairs,
                                   const PictureReader& picture,
                                   std::uint64_t seed,
                                   const std::string& device,
                                   const std::string& folder,
                                   const RoundObserver& observer = {});

}  // namespace pocketvlm
