#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "rlaif/claims.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/pairs.h"
#include "rlaif/prompts.h"

/// What the stages of a round hand to each other, and the lines of the files that hold it.
namespace pocketvlm {

struct Answer {
  std::int64_t sample = 0;
  std::string text;
  std::vector<std::int32_t> ids;
  bool finished = true;            // ended by itself: with a stop id or a stop text
  std::string cut = {};            // else the setting that cut it: "max_new_tokens", "max_repeats", "language.max_positions"
  std::vector<double> log_probs = {};  // of the sampled ids under the untempered policy, rounded to 6 digits; others' answers have none
};

/// All answers to one prompt; or why there are none.
struct PromptAnswers {
  std::int64_t index = 0;
  std::string id;
  std::string key;          // content hash of policy, decoding, question and picture
  std::string picture_key;  // of the picture alone
  std::string question;
  std::string language;     // of the answers, where the prompt says so
  std::string skipped;      // reason; empty when there are answers
  std::vector<Answer> answers;
};

/// Which round's prompts a folder works on, from 0: kept in round.json, 0 where there is none.
std::int64_t read_round(const std::string& folder);
/// Throws Error when the folder works on another round's.
void check_round(const std::string& folder, std::int64_t round);
/// `repeated`: prompts that an earlier round had, too (Prompts::repeated).
void write_round(const std::string& folder, std::int64_t round, std::int64_t repeated = 0);

/// Hash of a picture's pixels and size.
std::string picture_key(const Image& image);

/// The picture of prompt `index`. Throws Error when it is not the one whose key this is; an empty key fits every picture.
Picture checked_picture(const Prompts& prompts, std::int64_t index, const std::string& key);

/// What the claims of an answer depend on: picture, question, language and the answer's text.
std::string answer_key(const PromptAnswers& prompt, const Answer& answer);

/// What a verdict is about: picture and question.
std::string verdict_key(const std::string& picture_key, const std::string& question);

/// Lines of rollouts.jsonl: {"prompt_id", "index", "question", "sample", "text", "ids", "log_probs"?, "finished", "cut"?, "key",
/// "picture_key", "language"?}, or {"prompt_id", "index", "question", "skipped"}.
std::vector<Json> to_rows(const PromptAnswers& prompt);
/// The prompt that starts at `row` of the log, which moves behind it; nothing when that is another prompt, or when it has
/// not `samples` answers (-1: as many as there are).
std::optional<PromptAnswers> read_answers(const JsonlLog& log,
                                          std::int64_t index,
                                          std::int64_t samples,
                                          std::size_t& row);
/// All prompts of a file. Throws Error when it is not there, naming the command that makes it.
std::vector<PromptAnswers> read_answers(const std::string& path, const WorkingRanks& ranks = {});

/// The pairs of a file. Throws Error when it is not there, naming the command that makes it, and for a pair of answers that are
/// none of `answers`.
std::vector<PreferencePair> read_pairs(const std::string& path, const std::vector<PromptAnswers>& answers);

/// The claims of one answer; or why the splitter could not give them.
struct AnswerClaims {
  std::vector<Claim> claims;
  std::string problem;
};

/// The claims of each answer to one prompt, in the order of the answers.
struct PromptClaims {
  std::int64_t index = 0;
  std::string id;
  std::string picture_key;
  std::vector<AnswerClaims> answers;

  /// Distinct questions of all answers, by first appearance: what the judge is asked about this
  /// picture.
  std::vector<std::string> questions() const;
};

/// Lines of claims.jsonl: {"prompt_id", "index", "sample", "key", "claims": [{"claim", "question"}], "problem"?}; the key is
/// `answer_key`.
std::vector<Json> to_rows(const PromptClaims& claims, const PromptAnswers& answers);
/// The claims of `answers` that start at `row`; nothing when they are not all there. Throws Error for claims of other answers.
std::optional<PromptClaims> read_claims(const JsonlLog& log, const PromptAnswers& answers, std::size_t& row);
/// Claims of all prompts. Throws Error when the file does not hold those of these answers.
std::vector<PromptClaims> read_claims(const std::string& path,
                                      const std::vector<PromptAnswers>& answers,
                                      const WorkingRanks& ranks = {});

}  // namespace pocketvlm
