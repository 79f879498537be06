#include "data/scenes/scene_text.h"

#include <algorithm>

#include "base/error.h"
#include "data/scenes/cldr_names.h"

namespace pocketvlm {

SceneText::SceneText(const ScenesConfig& config,
                     const std::vector<ObjectClass>& classes,
                     const ClassFrequencies& frequencies,
                     const std::string& path)
    : classes_(classes), queries_(config, classes, frequencies), questions_(config.questions) {
  names_["en"] = class_names_in("en", classes, path);
  for (const auto& [language, weight] : config.languages) {
    names_[language] = class_names_in(language, classes, path);
    if (language != "en" && !has_patterns(language)) language_names_[language] = language_name(language);
  }
}

bool SceneText::can_say(const std::string& language, const std::string& task) {
  return language == "en" || has_patterns(language) || task == "name" || task == "caption" || task == "text";
}

QuestionAnswer SceneText::say(const Query& query,
                              const std::string& language,
                              const SceneFacts& facts,
                              Random& random,
                              bool canonical) const {
  if (language == "en") return say_in_english(query, facts, classes_, random, canonical);
  const std::vector<std::string>& names = names_.at(language);
  if (has_patterns(language)) return say_in_pattern(language, query, facts, names);
  std::string list;
  for (const SceneFacts::Count& item : query.items) {
    list += (list.empty() ? "" : ", ") + names[static_cast<std::size_t>(item.class_index)];
  }
  const char* question = query.kind == Query::kName ? "what is this? answer in {}."
                                                    : "what is in the picture? answer in {}.";
  return {fmt::format(fmt::runtime(question), language_names_.at(language)), list.empty() ? "-" : list};
}

std::vector<Turn> SceneText::turns(const std::string& task,
                                   const std::string& language,
                                   const SceneFacts& facts,
                                   Random& random,
                                   bool canonical) const {
  std::vector<Turn> turns;
  const auto ask = [&](const std::string& about, bool clean) {
    return say(queries_.make(about, language, facts, random, clean), language, facts, random, canonical);
  };
  if (task == "text") {
    static const std::vector<std::string> kinds = {
        "caption", "caption", "detailed", "detailed", "vqa", "yes_no", "counting", "position"};
    const std::string kind = can_say(language, "detailed") ? random.pick(kinds) : std::string("caption");
    const QuestionAnswer text = ask(kind, true);
    const bool alone = kind == "caption" || kind == "detailed";
    turns.push_back({"assistant", alone ? text.answer : text.question + " " + text.answer});
    return turns;
  }
  static const std::vector<std::string> chat_topics = {"caption", "vqa", "vqa", "counting", "position", "yes_no"};
  const bool is_chat = task == "chat";
  const bool has_questions = task == "vqa" || task == "counting" || task == "position" || task == "yes_no";
  const std::int64_t wanted = is_chat ? random.between(2, 3) : has_questions && !canonical ? questions_ : 1;
  const std::int64_t attempts = wanted == 1 ? 1 : std::max<std::int64_t>(30, 3 * wanted);
  for (std::int64_t i = 0; i < attempts && static_cast<std::int64_t>(turns.size()) < 2 * wanted; ++i) {
    const QuestionAnswer text = ask(is_chat ? random.pick(chat_topics) : task, is_chat || canonical);
    const bool asked = std::any_of(turns.begin(), turns.end(), [&](const Turn& turn) {
      return turn.role == "user" && turn.content == text.question;
    });
    if (asked) continue;
    turns.push_back({"user", text.question});
    turns.push_back({"assistant", text.answer});
  }
  return turns;
}

}  // namespace pocketvlm
