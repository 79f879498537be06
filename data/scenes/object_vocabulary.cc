#include <algorithm>
#include <set>

#include "base/error.h"
#include "data/scenes/cldr_names.h"
#include "data/scenes/object_classes.h"
#include "data/scenes/scene_source.h"

namespace pocketvlm {
namespace {

char lower(char letter) {
  return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter;
}

bool in_word(char letter) {
  const auto byte = static_cast<unsigned char>(letter);
  return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte >= 128;
}

bool is_gap(char letter) { return letter == ' ' || letter == '\t' || letter == '\n' || letter == '\r' || letter == '-'; }

/// End of `word` in the text when it starts at `begin`; 0 otherwise. A gap in the word stands for any run of
/// blanks and hyphens.
std::size_t match_at(const std::string& text, std::size_t begin, const std::string& word) {
  std::size_t place = begin;
  for (const char letter : word) {
    if (place >= text.size()) return 0;
    if (is_gap(letter)) {
      if (!is_gap(text[place])) return 0;
      while (place < text.size() && is_gap(text[place])) ++place;
    } else if (lower(text[place++]) != letter) {
      return 0;
    }
  }
  return place < text.size() && in_word(text[place]) ? 0 : place;
}

}  // namespace

ObjectVocabulary::ObjectVocabulary(std::vector<std::string> names,
                                   std::map<std::string, std::vector<std::string>> synonyms)
    : names_(std::move(names)) {
  std::map<std::string, int> owner;
  std::vector<std::pair<std::string, int>> entries;
  for (std::size_t i = 0; i < names_.size(); ++i) entries.emplace_back(names_[i], static_cast<int>(i));
  for (const auto& [name, words] : synonyms) {
    const auto place = std::find(names_.begin(), names_.end(), name);
    PV_CHECK(place != names_.end(), "object vocabulary: synonyms of \"{}\", which is no class", name);
    for (const std::string& word : words) entries.emplace_back(word, static_cast<int>(place - names_.begin()));
  }
  for (const auto& [entry, class_index] : entries) {
    std::string word = entry;
    std::transform(word.begin(), word.end(), word.begin(), lower);
    PV_CHECK(!word.empty() && in_word(word.front()), "object vocabulary: \"{}\" is no word", entry);
    for (const std::string& form : {word, plural_of(word)}) {
      // A class name wins over another's synonym or plural; names come first.
      if (owner.emplace(form, class_index).second) words_.emplace_back(form, class_index);
    }
  }
  std::stable_sort(words_.begin(), words_.end(), [](const auto& a, const auto& b) {
    return a.first.size() > b.first.size();
  });
}

std::vector<ObjectVocabulary::Mention> ObjectVocabulary::find(const std::string& text) const {
  std::vector<Mention> mentions;
  for (std::size_t place = 0; place < text.size(); ++place) {
    if (!in_word(text[place]) || (place > 0 && in_word(text[place - 1]))) continue;
    const char first = lower(text[place]);
    for (const auto& [word, class_index] : words_) {
      const std::size_t end = word[0] == first ? match_at(text, place, word) : 0;
      if (end == 0) continue;
      mentions.push_back({class_index, place, end});
      place = end - 1;
      break;
    }
  }
  return mentions;
}

void ObjectVocabulary::add_language(const std::string& language, const std::vector<std::string>& names) {
  std::map<std::string, int>& own = foreign_[language];
  for (std::size_t i = 0; i < names.size(); ++i) own.emplace(names[i], static_cast<int>(i));
}

std::optional<int> ObjectVocabulary::named(const std::string& language, const std::string& name) const {
  const auto own = foreign_.find(language);
  if (own == foreign_.end()) return std::nullopt;
  const auto found = own->second.find(name);
  return found == own->second.end() ? std::nullopt : std::optional(found->second);
}

ObjectVocabulary scene_vocabulary(const ScenesConfig& config) {
  std::vector<std::string> names;
  std::map<std::string, std::vector<std::string>> synonyms;
  const std::vector<ObjectClass> classes = selected_classes(config, "scenes");
  for (const ObjectClass& object_class : classes) {
    names.push_back(object_class.name);
    synonyms[object_class.name] = object_class.synonyms;
  }
  ObjectVocabulary vocabulary(std::move(names), std::move(synonyms));
  for (const auto& [language, weight] : config.languages) {
    if (language != "en" && weight > 0) vocabulary.add_language(language, class_names_in(language, classes, "scenes"));
  }
  return vocabulary;
}

ObjectVocabulary vocabulary_of(std::vector<std::string> names) {
  std::map<std::string, std::vector<std::string>> synonyms;
  for (const char* sprites : {"emoji", "stamps"}) {
    for (const ObjectClass& object_class : curated_classes(sprites)) {
      const bool named = std::find(names.begin(), names.end(), object_class.name) != names.end();
      if (named) synonyms.emplace(object_class.name, object_class.synonyms);
    }
  }
  return {std::move(names), std::move(synonyms)};
}

}  // namespace pocketvlm
