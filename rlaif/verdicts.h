#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/scenes/scene_source.h"
#include "rlaif/claims.h"
#include "rlaif/judge.h"
#include "rlaif/rollout.h"

namespace pocketvlm {

/// The claims of each answer to one prompt, in the order of the answers.
struct PromptClaims {
  std::int64_t index = 0;
  std::string id;
  std::vector<std::vector<Claim>> answers;

  /// Distinct questions of all answers, by first appearance: what the judge is asked about this
  /// picture.
  std::vector<std::string> questions() const;
};

/// How far the judge says what is true, on the questions whose truth is known. Measured, never
/// used.
struct JudgeAgreement {
  std::int64_t questions = 0;  // distinct ones of all pictures
  std::int64_t known = 0;      // of these, with known truth
  std::int64_t accepted_true = 0, accepted_false = 0, rejected_true = 0, rejected_false = 0;
  std::int64_t accepted = 0;
  std::int64_t too_long = 0;  // for the judge; their claims count as rejected
  double mean_coverage = 0;   // p_yes + p_no of the questions asked
  Json to_json() const;
};

/// Verdicts of one picture by question.
using VerdictTable = std::map<std::string, Verdict>;

/// Asks the judge about every distinct claim of every picture; one verdict table a prompt. Rows are
/// appended to `log` by groups of `batch` prompts; groups that are there already are not judged
/// again. Throws Error, naming the judge, when p_yes + p_no is below one half on average: a judge
/// that does not answer yes/no questions, or whose template is not the one it was trained with; and
/// when a picture is not the one that was sampled from.
std::vector<VerdictTable> judge_claims(const RlaifConfig& config,
                                       Judge& judge,
                                       const std::vector<PromptClaims>& prompts,
                                       const std::vector<PromptAnswers>& answers,
                                       const std::string& policy_hash,
                                       const Pictures& pictures,
                                       const ObjectVocabulary& vocabulary,
                                       JsonlLog& log,
                                       JudgeAgreement& agreement,
                                       const RoundObserver& observer = {});

}  // namespace pocketvlm
