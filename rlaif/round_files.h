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
  bool finished = true;  // the stop token came before max_new_tokens
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
void write_round(const std::string& folder, std::int64_t round);
std::int64_t read_round(const std::string& folder);

/// Hash of a picture's pixels and size.
std::string picture_key(const Image& image);

/// Lines of rollouts.jsonl: {"prompt_id", "index", "question", "sample", "text", "ids", "finished", "key", "picture_key", "language"?}, or
/// {"prompt_id", "index", "question", "skipped"}.
std::vector<Json> to_rows(const PromptAnswers& prompt);
/// The prompt that starts at `row` of the log, which moves behind it; nothing when that is another prompt, or when it has
/// not `samples` answers (-1: as many as there are).
std::optional<PromptAnswers> read_answers(const JsonlLog& log,
                                          std::int64_t index,
                                          std::int64_t samples,
                                          std::size_t& row);
/// All prompts of a file. Throws Error when it is not there, naming the command that makes it.
std::vector<PromptAnswers> read_answers(const std::string& path, const WorkingRanks& ranks = {});

/// The claims of one answer; or why the splitter could not give them.
struct AnswerClaims {
  std::vector<Claim> claims;
  std::string problem;
};

/// The claims of each answer to one prompt, in the order of the answers.
struct PromptClaims {
  std::int64_t index = 0;
  std::string id;
  std::vector<AnswerClaims> answers;

  /// Distinct questions of all answers, by first appearance: what the judge is asked about this
  /// picture.
  std::vector<std::string> questions() const;
};

/// Lines of claims.jsonl: {"prompt_id", "index", "sample", "claims": [{"claim", "question"}], "problem"?}.
std::vector<Json> to_rows(const PromptClaims& claims, const PromptAnswers& answers);
/// The claims of `answers` that start at `row`; nothing when they are not all there.
std::optional<PromptClaims> read_claims(const JsonlLog& log, const PromptAnswers& answers, std::size_t& row);
/// Claims of all prompts. Throws Error when the file does not hold those of these answers.
std::vector<PromptClaims> read_claims(const std::string& path,
                                      const std::vector<PromptAnswers>& answers,
                                      const WorkingRanks& ranks = {});

}  // namespace pocketvlm
