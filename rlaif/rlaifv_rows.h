#pragma once

#include <string>
#include <vector>

#include "rlaif/pairs.h"
#include "rlaif/picture_field.h"
#include "rlaif/round_files.h"
#include "rlaif/verdicts.h"

/// RLAIF-V's own rows (rlaifv.md section 1.4), so that its released data and other people's feedback can be used here, and
/// ours there.
namespace pocketvlm {

/// A file of pairs with pictures of its own. Rows are RLAIF-V's ("ds_question_id", "image_path", "question", "chosen",
/// "rejected"), those of the released data set as JSONL ("idx", "image" as path, as base64, or as {"bytes", "path"}), or ours
/// with an "image_path". Or single answers for KTO, as TRL takes them: {"prompt", "completion", "label": true or false, "image" or
/// "images": [one]}, prompt and completion as text or as a list of one message. Paths are relative to the file.
class PairFile {
 public:
  /// Throws Error naming file, line and field.
  explicit PairFile(const std::string& path);
  const std::vector<PreferencePair>& pairs() const { return pairs_; }
  /// The picture of the pairs whose `index` this is. Throws Error when it is missing or damaged.
  Image picture(std::int64_t index) const;

 private:
  std::string path_of(const PictureField& picture) const;

  std::string file_;
  std::vector<PreferencePair> pairs_;  // their picture_key is of the bytes as they lie there
  std::vector<PictureField> pictures_;
};

/// Writes what a round's folder holds as RLAIF-V's files in `out`: images/N.png, answers.jsonl, judged.jsonl, pairs.jsonl (as far as
/// the round has come). `config`: the round's. Throws Error when a picture is not the one that was sampled from.
void export_rlaifv(const std::string& folder, const Prompts& prompts, const RlaifConfig& config, const std::string& out);

/// Reads other people's answers, and what a judge said of them when `judged` is given, into a round's folder:
/// rollouts.jsonl, claims.jsonl (of the rows' "facts" and "changed_facts", or of the judged claims), verdicts.jsonl, ready
/// for `rlaif split`, `judge` or `pairs`. Answers belong to the prompt of the instructions whose ds_question_id they name; those whose
/// metainfos say finished: false count as cut. Prompts without a readable picture or without answers are left out, answers
/// whose facts do not fit their questions or were not all judged keep a problem. Returns {"prompts", "answers", "claims",
/// "verdicts", "left_out": [{"index", "prompt_id", "reason", "answers"}], "problems"}. Throws Error naming file and
/// line of a row that fits nowhere.
Json import_rlaifv(const std::string& answers,
                   const std::string& judged,
                   const Prompts& prompts,
                   const RlaifConfig& config,
                   const std::string& folder);

}  // namespace pocketvlm
