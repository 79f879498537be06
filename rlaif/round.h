#pragma once

#include <string>

#include "base/json.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/rlaif_config.h"
#include "trainer/distributed/communicator.h"

namespace pocketvlm {

/// What a round works on.
struct RoundInputs {
  std::string policy;       // checkpoint folder: samples, and learns
  std::string judge;        // checkpoint folder, when the judge is no server
  std::string splitter;     // the same of the splitter
  std::string reference;    // checkpoint folder; empty: the policy
  std::string pairs;        // "train" alone: a file of pairs with pictures of its own (rlaif/rlaifv_rows.h); empty: pairs.jsonl
  std::int64_t round = 0;   // which stretch of the prompts, and which random streams
  std::string folder;       // of the results
};

/// One round of RLAIF-V (rlaifv.md section 1) in a folder; every stage is append-only JSONL,
/// resumable at any line:
///   rollouts.jsonl   answers (rlaif/round_files.h)
///   claims.jsonl     what they state
///   verdicts.jsonl   what the judge says of it, one line a distinct question of a picture
///   scores.jsonl     {"prompt_id", "index", "sample", "key", "score", "rejected", "claims", "finished"}
///   pairs.jsonl      {"prompt_id", "question", "chosen", "rejected", "chosen_score", ...}
///   pair_report.json, train_report.json   what of answers and pairs was used, and what was left out and why
///   reference.jsonl, metrics.jsonl, candidates/   of the training
///   checkpoint/      the aligned model
///   odd_cases.json   what did not go the usual way (rlaif/odd_cases.h)
///   result.json      figures of the round (its presence means done)
///   inputs.json      what each stage was made from, training also from which pairs: other inputs are refused, naming the
///                    difference
///   round.json       whose prompts these are; another round is refused
/// Lines name what they were made from by a content key, and are not read beside anything else.
/// `last`: the stage to stop after ("sample", "split", "judge", "pairs", "train"); stages before it are run where they are
/// not finished. Returns result.json (after "train"), or the figures of the stages so far.
/// An interrupted round continues and ends with the same pairs and the same weights, bit for bit.
/// `ranks`: the job's; all of them call this with the same arguments, share the work, and rank 0 writes. The files of every
/// stage before training are the same bytes whatever their number, which may change when a round is continued. Null: this
/// process is alone.
Json run_round(const RlaifConfig& config,
               const RoundInputs& inputs,
               const RoundObserver& observer = {},
               const std::string& last = "train",
               Communicator* ranks = nullptr);

/// One stage alone, on the files that are in the folder already: "split" and "pairs" need no policy, "judge" the judge
/// alone, "train" pairs alone. Throws Error naming the command that makes a missing file. Returns the stage's figures.
Json run_stage_alone(const RlaifConfig& config,
                     const RoundInputs& inputs,
                     const std::string& stage,
                     const RoundObserver& observer = {},
                     Communicator* ranks = nullptr);

}  // namespace pocketvlm
