#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/scenes/scene_source.h"
#include "rlaif/judge.h"
#include "rlaif/round_files.h"

namespace pocketvlm {

/// How far the judge says what is true, on the questions whose truth is known. Measured, never
/// used.
struct JudgeAgreement {
  std::int64_t questions = 0;  // distinct ones of all pictures
  std::int64_t known = 0;      // of these, with known truth
  std::int64_t accepted_true = 0, accepted_false = 0, rejected_true = 0, rejected_false = 0;
  std::int64_t accepted = 0;
  std::int64_t too_long = 0;    // for the judge; their claims count as rejected
  std::int64_t unreadable = 0;  // neither yes nor no; their claims count as rejected
  std::int64_t refused = 0;     // by a server, for another reason than their length; their claims count as rejected
  double mean_coverage = 0;     // p_yes + p_no of the questions answered
  std::int64_t answered() const { return questions - too_long - unreadable - refused; }
  Json to_json() const;
};

/// A line of verdicts.jsonl.
Json to_row(const PromptClaims& prompt, const std::string& question, const Verdict& verdict, double margin);

/// Verdicts of one picture by question.
using VerdictTable = std::map<std::string, Verdict>;

/// Asks the judge about every distinct claim of every picture; one verdict table a prompt. Rows are
/// appended to `log` by groups of `batch` prompts, those of a server picture by picture, so that what was paid for is kept;
/// groups that are there already are not judged again. Ranks judge a group each. A row: {"prompt_id", "index", "question",
/// "key", "p_yes", "p_no", "accepted", "problem"?, "truth"?}; the key is `verdict_key`. Throws Error, naming the judge,
///   when p_yes + p_no is below one half on average: a judge that does not answer yes/no questions, or whose template is not
///   the one it was trained with;
///   when a server refuses most questions: then verdicts from the first refused one on are asked for again after --resume;
///   when a picture is not the one that was sampled from, and when verdicts are there on other pictures or under another
///   `judge_margin`.
std::vector<VerdictTable> judge_claims(const RlaifConfig& config,
                                       Judge& judge,
                                       const std::vector<PromptClaims>& claims,
                                       const std::vector<PromptAnswers>& answers,
                                       const Prompts& prompts,
                                       const ObjectVocabulary& vocabulary,
                                       JsonlLog& log,
                                       JudgeAgreement& agreement,
                                       const RoundObserver& observer = {},
                                       const WorkingRanks& ranks = {});

/// The verdicts of a finished file, one table a prompt. Throws Error when verdicts on these claims are missing, and when they
/// were accepted under another margin.
std::vector<VerdictTable> read_verdicts(const std::string& path,
                                        const std::vector<PromptClaims>& claims,
                                        double margin,
                                        const WorkingRanks& ranks = {});

}  // namespace pocketvlm
