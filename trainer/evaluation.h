#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "base/json.h"
#include "data/scenes/scene_source.h"
#include "model/checkpoint.h"

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

struct EvaluationConfig {
  std::string prompt = "describe the picture in detail.";
  int64_t max_new_tokens = 96;
  int64_t batch = 32;           // pictures a batch
  int64_t pope_per_image = 3;   // yes questions, and as many no questions, a picture and negative kind
  uint64_t seed = 0;
  std::string compute_dtype = "f32";
  void visit_fields(auto&& field) {
    field("prompt", prompt, "what the model is asked for its description");
    field("max_new_tokens", max_new_tokens, "of a description", in_range(1, 1 << 20));
    field("batch", batch, "pictures a batch", in_range(1, 4096));
    field("pope_per_image", pope_per_image, "yes questions, and as many no questions, a picture and negative kind", in_range(1, 100));
    field("seed", seed, "of the negatives drawn");
    field("compute_dtype", compute_dtype, "dtype of matrix products", one_of({"bf16", "f32"}));
  }
};

/// Greedy descriptions for CHAIR and recall; POPE with random, popular and adversarial negatives (rlaifv.md 3), answered by the
/// first token (yes against no). `vocabulary` names what can be mentioned.
Evaluation evaluate(LoadedModel& model,
                    const std::vector<EvalItem>& items,
                    const ObjectVocabulary& vocabulary,
                    const EvaluationConfig& config);

}  // namespace pocketvlm
