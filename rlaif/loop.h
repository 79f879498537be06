#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/rlaif_config.h"
#include "trainer/distributed/communicator.h"

namespace pocketvlm {

/// The alignment loop in `folder`. One round without evaluation is a round (rlaif/round.h) in the folder itself. Else:
///   round-N/             each round, with evaluation.jsonl: {"key", "checkpoint", "steps", figures...} a candidate
///   round-N/choice.json  {"chosen", "steps", "why", "figures", "candidates": [{"checkpoint", "steps",
///                        "hallucination", "chair_i", "pope_error", "object_recall", "mean_answer_words"}]}: the checkpoint that
///                        the next round begins with
///   checkpoint/          the last choice
///   result.json          {"rounds": [{"result", "choice"}, ...], "before": figures of the first policy, "checkpoint"}
///                        beside the figures of the last round
/// Candidates of a round are the checkpoint it began with, those that were kept, and its last one. Of those whose recall is
/// not lower than the first policy's by more than `largest_recall_loss`, the one with the smallest CHAIR_i + POPE error (mean
/// over the three kinds) is chosen; of equals the earliest.
///   observer   told "sample" (prompts), "split", "judge", "reference", "preference" (steps), "evaluate" (candidates)
///              after each stretch; in round 2 "2/sample" and so on
/// A finished loop is not run again; an interrupted one continues and ends with the same files and weights, bit for bit. A
/// folder that holds results of other settings or other models is an Error.
/// `ranks`: as for run_round; evaluation, too, is divided over them.
Json run_rlaif(const RlaifConfig& config,
               const std::string& policy_folder,
               const std::string& judge_folder,
               const std::string& folder,
               const RoundObserver& observer = {},
               Communicator* ranks = nullptr);

/// Figures of one checkpoint under the loop's evaluation settings: what `evaluate` says. `device`: cpu, or cuda (of many ranks
/// each takes the device of its place on the machine).
Json evaluate_checkpoint(const LoopEvaluationConfig& config,
                         const std::string& checkpoint,
                         const std::string& device = "cpu",
                         Communicator* ranks = nullptr);

/// A candidate and its figures; the first is what the round began with.
struct Candidate {
  std::string checkpoint;
  std::int64_t steps = 0;
  Json figures;
};

/// The place of the best candidate (rule above).
std::size_t choose_candidate(const std::vector<Candidate>& candidates,
                             double first_recall,
                             double largest_recall_loss);

}  // namespace pocketvlm
