#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/sample.h"
#include "model/checkpoint.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// A picture to be talked about. `truth` is what its source knows (Sample::truth), or null.
struct Picture {
  std::string id;
  Image image;
  Json truth;
};

/// The pictures of a round: the first `count` samples of the source. A function of the index alone.
class Pictures {
 public:
  /// Throws Error when the source holds fewer than `count` samples.
  Pictures(const SourceConfig& config, std::int64_t count);
  std::int64_t size() const { return count_; }
  /// Throws Error for a damaged sample and for one that does not hold exactly one picture.
  Picture at(std::int64_t index) const;

 private:
  std::unique_ptr<SampleSource> source_;
  std::int64_t count_;
};

struct Answer {
  std::int64_t sample = 0;
  std::string text;
  std::vector<std::int32_t> ids;
  bool finished = true;  // the stop token came before max_new_tokens
};

/// All answers to one prompt; or why there are none.
struct PromptAnswers {
  std::int64_t index = 0;
  std::string id;
  std::string key;      // content hash of policy, decoding, question and picture
  std::string skipped;  // reason; empty when there are answers
  std::vector<Answer> answers;
};

/// What an answer depends on; equal keys mean the same answers.
std::string rollout_key(const RlaifConfig& config,
                        const std::string& policy_hash,
                        const Picture& picture);

/// `rollout.samples` answers to each prompt, all under the same decoding settings (rlaifv.md:
/// deconfounded): one vision encoding and one prefill a prompt, one random stream per (seed,
/// prompt, sample). `batch` prompts are decoded together and their rows appended to `log` together;
/// groups that are there already are not made again. Throws Error when no prompt could be answered.
std::vector<PromptAnswers> sample_answers(const RlaifConfig& config,
                                          LoadedModel& policy,
                                          const std::string& policy_hash,
                                          const Pictures& pictures,
                                          JsonlLog& log,
                                          const RoundObserver& observer = {});

}  // namespace pocketvlm
