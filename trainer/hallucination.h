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

/// Object-HalBench's rates (RLHF-V, rlaifv.md section 3): objects count once an answer; answers that name no known object do not
/// count.
struct ObjectRates {
  double response_rate = 0;  // answers with a hallucinated object / answers with an object
  double mention_rate = 0;   // hallucinated objects / objects, distinct in each answer
  double object_recall = 0;  // distinct true objects named / true objects
  int64_t answers = 0;       // with an object
  Json to_json() const;
};
ObjectRates object_rates(const std::vector<std::vector<int>>& present,
                         const std::vector<std::string>& answers,
                         const ObjectVocabulary& vocabulary);

/// AMBER's generative figures (Wang et al. 2023), with objects in the place of its nouns; means over the answers, as its
/// script takes them. `targets`: objects that models like to invent about each picture (may be empty lists).
struct AmberRates {
  double chair = 0;  // hallucinated objects / objects, of an answer that names some
  double cover = 0;  // true objects named / true objects
  double hal = 0;    // answers with a hallucinated object
  double cog = 0;    // hallucinated targets / objects named
  Json to_json() const;
};
AmberRates amber_rates(const std::vector<std::vector<int>>& present,
                       const std::vector<std::vector<int>>& targets,
                       const std::vector<std::string>& answers,
                       const ObjectVocabulary& vocabulary);

/// POPE's reading of an answer (its script and LLaVA's): of the text before the first full stop, without commas, the words No, no
/// and not mean no; anything else means yes.
bool pope_says_yes(const std::string& answer);

struct YesNoScore {
  double accuracy = 0, precision = 0, recall = 0, f1 = 0, yes_ratio = 0;
  int64_t questions = 0;
  Json to_json() const;
};

/// "yes" is the positive class; ratios without a denominator are 0.
YesNoScore score_yes_no(const std::vector<bool>& truth, const std::vector<bool>& said_yes);

/// AMBER's discriminative figures: "no" is the positive class, and only the very words Yes and No (a full stop may follow) are
/// answers; others are wrong.
YesNoScore score_amber_questions(const std::vector<bool>& truth, const std::vector<std::string>& answers);

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
