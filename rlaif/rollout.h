#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/prompts.h"
#include "rlaif/rlaif_config.h"
#include "rlaif/round_files.h"

namespace pocketvlm {

/// What an answer depends on; equal keys mean the same answers.
std::string rollout_key(const RlaifConfig& config,
                        const std::string& policy_hash,
                        const Picture& picture);

/// `rollout.samples` answers to each prompt, all under the same decoding settings (rlaifv.md:
/// deconfounded) unless `temperatures` says otherwise: one vision encoding and one prefill a prompt,
/// one random stream per (seed, prompt, sample). The rows of `batch` prompts are appended to `log` together; of their answers at most
/// `max_branches` are decoded at once, prompts joining as others end. Groups that are there already are not made again. Ranks answer
/// a group each. Throws Error when no prompt could be answered.
std::vector<PromptAnswers> sample_answers(const RlaifConfig& config,
                                          LoadedModel& policy,
                                          const std::string& policy_hash,
                                          const Prompts& prompts,
                                          JsonlLog& log,
                                          const RoundObserver& observer = {},
                                          const WorkingRanks& ranks = {});

}  // namespace pocketvlm
