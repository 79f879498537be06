#pragma once

#include <string>

#include "base/json.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// One round of RLAIF-V (rlaifv.md section 1) in `folder`; every stage is append-only JSONL,
/// resumable at any line:
///   rollouts.jsonl   {"prompt_id", "sample", "text", "ids", "key"}
///   claims.jsonl     {"prompt_id", "sample", "claims": [{"claim", "question"}]}
///   verdicts.jsonl   {"prompt_id", "question", "p_yes", "p_no", "accepted"}     one a distinct
///   question of a picture scores.jsonl     {"prompt_id", "sample", "score", "rejected", "claims"}
///   pairs.jsonl      {"prompt_id", "question", "chosen", "rejected", "chosen_score",
///   "rejected_score", ...} reference.jsonl  reference log-probs, keyed by content hash
///   metrics.jsonl    DPO steps: loss, rewards/chosen, rewards/rejected, rewards/accuracies,
///   rewards/margins, logps/* checkpoint/      the aligned model         result.json   figures of
///   the round (its presence means done)
/// Returns result.json: counts, drops by reason, seconds per stage, judge agreement with the
/// scenes' truth (where known; it never decides), mean lengths.
///   observer   told after each stretch: "rollout" (prompts), "judge" (pictures), "reference"
///   (pairs), "preference" (steps)
/// A finished round is not run again; an interrupted one continues and ends with the same pairs and
/// the same weights, bit for bit. A folder that holds a round with other settings or other models
/// is an Error.
Json run_rlaif(const RlaifConfig& config,
               const std::string& policy_folder,
               const std::string& judge_folder,
               const std::string& folder,
               const RoundObserver& observer = {});

}  // namespace pocketvlm
