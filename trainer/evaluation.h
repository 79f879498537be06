#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "data/scenes/scene_source.h"
#include "model/checkpoint.h"
#include "trainer/distributed/communicator.h"
#include "trainer/evaluation_config.h"
#include "trainer/hallucination.h"

namespace pocketvlm {

/// A picture with what is known about it.
struct EvalItem {
  std::string id;
  Image image;
  std::vector<std::string> objects;  // distinct class names that are in it
};

/// Held-out pictures: from a scene stream, or from a folder made by `data scenes` (data.json, images/, truth.jsonl). Damaged
/// pictures of a folder are left out with a warning; a damaged truth.jsonl is an Error.
std::vector<EvalItem> eval_items(const SceneSource& source, int64_t count);
std::vector<EvalItem> eval_items(const std::string& folder);

/// The objects that the truth of some item names: what can be mentioned where no class list is known.
ObjectVocabulary vocabulary_of_items(const std::vector<EvalItem>& items);

/// Hallucination figures of CHAIR (Rohrbach et al. 2018) and POPE (Li et al. 2023), pooled over the pictures.
struct Evaluation {
  double chair_i = 0;         // hallucinated mentions / mentions
  double chair_s = 0;         // answers with a hallucinated mention / answers
  double object_recall = 0;   // distinct true objects named / true objects
  double mean_answer_words = 0;
  YesNoScore pope_random, pope_popular, pope_adversarial;
  double yes_no_coverage = 0;        // mean p(yes) + p(no) of the first token: near 0, yes/no figures mean little
  std::vector<std::string> answers;  // one an item
  Json to_json() const;       // keys of the contract
};

/// Greedy descriptions for CHAIR and recall; POPE with random, popular and adversarial negatives, answered by the
/// first token (yes against no, in lower case and capitalised). `vocabulary` names what can be mentioned.
/// `ranks`: all of them call this with the same arguments, share the batches of pictures and get the same figures, which
/// are those of one process to the last bit. Null: this process is alone.
Evaluation evaluate(LoadedModel& model,
                    const std::vector<EvalItem>& items,
                    const ObjectVocabulary& vocabulary,
                    const EvaluationConfig& config,
                    Communicator* ranks = nullptr);

}  // namespace pocketvlm
