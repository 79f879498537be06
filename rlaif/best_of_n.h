#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "model/checkpoint.h"
#include "rlaif/preference_pack.h"
#include "rlaif/round_files.h"

namespace pocketvlm {

/// The implicit reward of each answer to a prompt under an aligned policy (rlaifv.md section 1.7):
///   r = (beta / T) (log pi_policy(answer) - log pi_reference(answer)),  T = tokens of the answer
/// Answers that the models cannot take (too long) get none.
struct RankedAnswers {
  std::int64_t index = 0;
  std::vector<std::optional<double>> rewards;  // one an answer
  std::size_t best = 0;                        // place of the largest; of equals the first
};

/// Ranks the answers of every prompt; both models compute on `device` in `config.compute_dtype`. Throws Error when the two models write
/// different tokens or see different pictures, and when a picture cannot be read.
std::vector<RankedAnswers> rank_answers(const PreferenceConfig& config,
                                        LoadedModel& policy,
                                        LoadedModel& reference,
                                        const std::vector<PromptAnswers>& prompts,
                                        const PictureReader& picture,
                                        const std::string& device = "cpu");

}  // namespace pocketvlm
