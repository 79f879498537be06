#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "data/scenes/scene_source.h"
#include "model/checkpoint.h"
#include "trainer/evaluation_config.h"

namespace pocketvlm {

/// A picture with what is known about it.
struct EvalItem {
  std::string id;
  Image image;
  std::vector<std::string> objects;  // distinct class names that are in it
};

/// Held-out pictures: from a scene stream, or from a folder made by `data scenes` (data.json, images/, truth.jsonl).
std::vector<EvalItem> eval_items(const SceneSource& source, int64_t count);
std::vector<EvalItem> eval_items(const std::string& folder);

struct YesNoScore {
  double accuracy = 0, precision = 0, recall = 0, f1 = 0, yes_ratio = 0;
  int64_t questions = 0;
};

/// Hallucination figures of rlaifv.md section 3, pooled over the pictures.
struct Evaluation {
  double chair_i = 0;         // hallucinated mentions / mentions
  double chair_s = 0;         // answers with a hallucinated mention / answers
  double object_recall = 0;   // distinct true objects named / true objects
  double mean_answer_words = 0;
  YesNoScore pope_random, pope_popular, pope_adversarial;
  std::vector<std::string> answers;  // one an item
  Json to_json() const;       // keys of the contract
};

/// Greedy descriptions for CHAIR and recall; POPE with random, popular and adversarial negatives (rlaifv.md 3), answered by the
/// first token (yes against no). `vocabulary` names what can be mentioned.
Evaluation evaluate(LoadedModel& model,
                    const std::vector<EvalItem>& items,
                    const ObjectVocabulary& vocabulary,
                    const EvaluationConfig& config);

}  // namespace pocketvlm
