#pragma once

#include <string>
#include <vector>

#include "rlaif/pairs.h"
#include "rlaif/round_files.h"
#include "rlaif/verdicts.h"

/// RLAIF-V's own rows (rlaifv.md section 1.4), so that its released data and other people's feedback can be used here, and
/// ours there.
namespace pocketvlm {

/// A file of pairs with pictures of its own. Rows are RLAIF-V's ("ds_question_id", "image_path", "question", "chosen",
/// "rejected"), those of the released data set as JSONL ("idx", "image" as path, as base64, or as {"bytes", "path"}), or ours
/// with an "image_path". Paths are relative to the file.
class PairFile {
 public:
  /// Throws Error naming file, line and field.
  explicit PairFile(const std::string& path);
  const std::vector<PreferencePair>& pairs() const { return pairs_; }
  /// The picture of the pairs whose `index` this is. Throws Error when it is missing or damaged.
  Image picture(std::int64_t index) const;

 private:
  struct Source {
    std::string path, encoded;
  };
  std::string file_;
  std::vector<PreferencePair> pairs_;
  std::vector<Source> pictures_;
};

/// Writes what a round's folder holds as RLAIF-V's files in `out`: images/N.png, answers.jsonl, judged.jsonl, pairs.jsonl (as far as
/// the round has come).
void export_rlaifv(const std::string& folder, const Prompts& prompts, const std::string& model_path, const std::string& out);

/// Reads other people's answers, and what a judge said of them when `judged` is given, into a round's folder:
/// rollouts.jsonl, claims.jsonl, verdicts.jsonl, ready for `rlaif split`, `judge` or `pairs`. Answers belong to the prompt of the
/// instructions whose ds_question_id they name. Throws Error naming file and line of a row that fits nowhere.
void import_rlaifv(const std::string& answers,
                   const std::string& judged,
                   const Prompts& prompts,
                   const std::string& folder);

}  // namespace pocketvlm
