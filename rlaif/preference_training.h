#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/preference_pack.h"
#include "rlaif/reference.h"
#include "rlaif/rlaif_config.h"
#include "trainer/distributed/communicator.h"
#include "trainer/stage.h"

namespace pocketvlm {

struct PreferenceResult {
  std::int64_t pairs = 0;  // used
  std::int64_t steps = 0;
  double seconds = 0;                           // of the training steps
  std::map<std::string, std::int64_t> dropped;  // reason -> pairs that cannot be trained on
  ReferenceCounts references;                   // kto counts those of its KL term as well
  std::map<std::string, double> first, last;    // metrics of the first and the last step
  std::vector<ComponentRow>
      components;  // what was trained, what was frozen and stayed bit-identical
  Json to_json() const;
};

/// What a training may have beside its pairs.
struct PreferenceOptions {
  LoadedModel* reference = nullptr;  // null: the policy's weights at the call
  std::string tokenizer_path;        // needed by keep_every: checkpoints hold their tokenizer
  std::string policy;                // needed by keep_every with lora: the checkpoint that was loaded as policy
  Communicator* ranks = nullptr;     // the job's; all call this with the same arguments. Null: this process is alone
  DistributedConfig distributed;     // how they share weights and moments
};

/// Preference optimisation of `policy` in `folder`:
///   reference.jsonl      reference log-probs, computed once before training (rlaif/reference.h), or, with a live reference, what
///                        can be trained on
///   reference-kl.jsonl   kto: those of answers to other prompts, which estimate the KL term
///   metrics.jsonl        one line an optimizer step, named as in TRL
///   candidates/step-N/   checkpoints, every `keep_every` steps
///   adapter/             lora: its updates (model/adapter.h); the policy ends with them merged
///   state/            resumable state (trainer/training_state.h); an interrupted call ends with
///   the same bits
/// Ranks compute references of a stretch of pairs each, and of every step a part of its pairs; gradients are summed in
/// float32 in the order of ranks and divided by the step's pairs of all of them, so that steps are the same whatever their
/// number, up to the order of sums. Rank 0 writes; a state may be continued by another number of ranks.
/// The order of pairs is a function of seed and epoch. Without pairs the policy is left as it is.
/// Throws Error when the loss is not finite (before the update) and when a frozen tensor changed.
PreferenceResult train_preferences(const PreferenceConfig& config,
                                   LoadedModel& policy,
                                   const std::vector<PreferencePair>& pairs,
                                   const PictureReader& picture,
                                   std::uint64_t seed,
                                   const std::string& device,
                                   const std::string& folder,
                                   const RoundObserver& observer = {},
                                   const PreferenceOptions& options = {});

}  // namespace pocketvlm
