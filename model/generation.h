#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"
#include "model/vision_language_model.h"

namespace pocketvlm {

struct SamplingConfig {
  double temperature = 0.0;        // 0: greedy
  double top_p = 1.0;
  int64_t top_k = 0;               // 0: off
  double repetition_penalty = 1.0;
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_ids;   // beside the template's own
  int64_t max_repeats = 0;         // 0: off
  int64_t num_samples = 1;
  int64_t first_sample = 0;
  uint64_t seed = 0;

  void visit_fields(auto&& field) {
    field("temperature", temperature, "0 is greedy", in_range(0, 100));
    field("top_p", top_p, "nucleus", in_range(0, 1));
    field("top_k", top_k, "0 is off", in_range(0, 1 << 24));
    field("repetition_penalty", repetition_penalty, "1 is off", in_range(0.01, 100));
    field("max_new_tokens", max_new_tokens, "tokens of an answer, at most", in_range(1, 1 << 20));
    field("min_new_tokens", min_new_tokens, "no answer ends by itself before", in_range(0, 1 << 20));
    field("stop", stop, "texts that end an answer and are cut off it");
    field("stop_ids", stop_ids, "token ids that end an answer, beside those of the chat template");
    field("max_repeats",
          max_repeats,
          "an answer whose last tokens are one piece (of 64 at most) this many times in a row is cut; 0 is off, 1 is refused",
          in_range(0, 1 << 20));
    field("num_samples", num_samples, "answers of one prompt; they share image encoding and prefix", in_range(1, 4096));
    field("first_sample", first_sample, "number of the first answer: its random stream", in_range(0, 1 << 20));
    field("seed", seed, "of the sampling streams: one a (prompt key, sample), whatever is batched with it");
  }
};

struct Generation {
  std::vector<std::int32_t> ids;     // without the stop token, with those of a stop text
  std::vector<float> log_probs;      // of the sampled ids under the untempered model
  std::string text;
  bool stopped = false;              // a stop id or text came before max_new_tokens
  bool repeated = false;             // cut by max_repeats
};

/// num_samples answers to one prompt: one vision encoding, one prefill, one batch of decoding steps. `prompt_key` selects the
/// random streams together with seed and sample number.
std::vector<Generation> generate(VisionLanguageModel& model,
                                 const PromptEncoder& encoder,
                                 const EncodedChat& prompt,
                                 const SamplingConfig& sampling,
                                 uint64_t prompt_key = 0,
                                 const std::function<void(std::int32_t)>& on_token = {});

/// Answers decoded together: beyond this, batching gains little and the cache grows.
inline constexpr int64_t kMaxBranches = 128;

/// num_samples answers to each of many prompts, [prompt * samples + sample], of which at most `max_branches` (or one prompt's) are
/// decoded together: as answers end, the next prompts join. They equal those of generate() one prompt at a time up to the
/// floating-point order of products; which ones are decoded together depends on the arguments alone.
std::vector<Generation> generate_batch(VisionLanguageModel& model,
                                       const PromptEncoder& encoder,
                                       const std::vector<EncodedChat>& prompts,
                                       const SamplingConfig& sampling,
                                       const std::vector<uint64_t>& prompt_keys = {},
                                       int64_t max_branches = kMaxBranches);

/// log p of each candidate id as the first token after each prompt: [prompts][candidates]; prefill only (yes/no judging).
std::vector<std::vector<double>> first_token_log_probs(VisionLanguageModel& model,
                                                       const std::vector<EncodedChat>& prompts,
                                                       const std::vector<std::int32_t>& candidates);

}  // namespace pocketvlm
