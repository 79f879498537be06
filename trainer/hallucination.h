#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/scenes/scene_source.h"

/// The arithmetic of CHAIR and POPE on known truth; LibTorch-free.
namespace pocketvlm {

/// Classes of the vocabulary that are in each picture. Throws Error for an object that the
/// vocabulary does not know.
std::vector<std::vector<int>> class_indices(const std::vector<std::vector<std::string>>& objects,
                                            const ObjectVocabulary& vocabulary);

/// CHAIR (Rohrbach et al. 2018), pooled over the answers, repeated mentions counted.
struct ChairScore {
  double chair_i = 0;        // hallucinated mentions / mentions
  double chair_s = 0;        // answers with a hallucinated mention / answers
  double object_recall = 0;  // distinct true objects named / true objects
  double mean_answer_words = 0;
};
ChairScore score_answers(const std::vector<std::vector<int>>& present,
                         const std::vector<std::string>& answers,
                         const ObjectVocabulary& vocabulary);

struct YesNoScore {
  double accuracy = 0, precision = 0, recall = 0, f1 = 0, yes_ratio = 0;
  int64_t questions = 0;
  Json to_json() const;
};

/// "yes" is the positive class; ratios without a denominator are 0.
YesNoScore score_yes_no(const std::vector<bool>& truth, const std::vector<bool>& said_yes);

/// Questions of POPE (Li et al. 2023) about one picture, by class index; as many negatives of each
/// kind as positives.
struct PopeQuestions {
  std::vector<int> positive;
  std::vector<int> random;       // absent objects, drawn evenly
  std::vector<int> popular;      // the absent objects that most pictures have
  std::vector<int> adversarial;  // for each positive the absent object seen most often with it;
                                 // drawn when there is none
};

/// At most `per_image` positives a picture. No negative is asked twice about one picture and kind.
/// Ties go to the lower class index. Pictures without an object, or with all, have no question.
std::vector<PopeQuestions> pope_questions(const std::vector<std::vector<int>>& present,
                                          int64_t num_classes,
                                          int64_t per_image,
                                          uint64_t seed);

/// "is there a cat in the picture?"
std::string presence_question(const std::string& name);

}  // namespace pocketvlm
