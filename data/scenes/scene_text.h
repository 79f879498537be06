#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/scenes/scene_facts.h"

namespace pocketvlm {

struct QuestionAnswer {
  std::string question, answer;
};

/// Plain English with few words, built so that a small model can learn it: one sentence an object in detailed
/// answers, positions from a 3 x 3 grid. `canonical`: always the first of the phrasings.
QuestionAnswer say_in_english(const Query& query,
                              const SceneFacts& facts,
                              const std::vector<ObjectClass>& classes,
                              Random& random,
                              bool canonical);

/// Where a cell of the 3 x 3 grid is: "at the top left".
const char* position_words(int cell);

/// Fixed patterns of a language that avoid inflection: names stand after colons and in lists.
/// `names`: class names in that language.
QuestionAnswer say_in_pattern(const std::string& language,
                              const Query& query,
                              const SceneFacts& facts,
                              const std::vector<std::string>& names);
bool has_patterns(const std::string& language);

/// Makes the turns of a sample from the facts of its scene, in any language of the config.
class SceneText {
 public:
  /// Throws Error for languages that CLDR does not know or names no class in.
  SceneText(const ScenesConfig& config,
            const std::vector<ObjectClass>& classes,
            const ClassFrequencies& frequencies,
            const std::string& path);

  /// Languages without patterns can only list names: tasks name, caption and text.
  static bool can_say(const std::string& language, const std::string& task);
  bool knows(const std::string& language) const { return names_.count(language) != 0; }

  std::vector<Turn> turns(const std::string& task,
                          const std::string& language,
                          const SceneFacts& facts,
                          Random& random,
                          bool canonical) const;

 private:
  QuestionAnswer say(const Query& query,
                     const std::string& language,
                     const SceneFacts& facts,
                     Random& random,
                     bool canonical) const;

  const std::vector<ObjectClass>& classes_;
  QueryMaker queries_;
  std::int64_t questions_;
  std::map<std::string, std::vector<std::string>> names_;  // by language
  std::map<std::string, std::string> language_names_;      // of languages without patterns
};

}  // namespace pocketvlm
