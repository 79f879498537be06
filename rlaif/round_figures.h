#pragma once

#include <vector>

#include "base/json.h"
#include "rlaif/pairs.h"
#include "rlaif/rlaif_config.h"
#include "rlaif/round_files.h"
#include "rlaif/verdicts.h"

/// What a round makes of its files: scores of answers, and figures for its result.
namespace pocketvlm {

/// Every answer with what the judge made of its claims. Lines of scores.jsonl are added to `rows`.
std::vector<ScoredPrompt> score_answers(const RlaifConfig& config,
                                        const std::vector<PromptAnswers>& prompts,
                                        const std::vector<PromptClaims>& claims,
                                        const std::vector<VerdictTable>& verdicts,
                                        std::vector<Json>& rows);

/// {"prompts", "skipped": [...], "answers", "finished", "tokens", "mean_tokens", "mean_words"}
Json rollout_figures(const std::vector<PromptAnswers>& prompts);

/// {"claims", "claims_per_answer", "questions", "questions_per_picture", "rejected", "rejected_share"}
Json claim_figures(const std::vector<PromptClaims>& prompts, const std::vector<ScoredPrompt>& scored);

}  // namespace pocketvlm
