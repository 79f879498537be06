#include "rlaif/annotated_set.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>
#include <vector>

#include "base/config.h"
#include "base/error.h"
#include "base/files.h"
#include "data/scenes/object_classes.h"
#include "data/scenes/scene_source.h"
#include "rlaif/claims.h"
#include "rlaif/sentences.h"
#include "trainer/hallucination.h"

namespace pocketvlm {
namespace {

std::string text_at(const Json& json, const char* name, const std::string& place) {
  PV_CHECK(json.is_object() && json.contains(name) && json[name].is_string(),
           "{}: needs \"{}\", a text",
           place,
           name);
  return json[name].get<std::string>();
}

std::vector<std::string> texts_at(const Json& json, const char* name, const std::string& place) {
  std::vector<std::string> texts;
  if (!json.contains(name)) return texts;
  PV_CHECK(json[name].is_array(), "{}.{}: expected a list of texts", place, name);
  for (const Json& text : json[name]) {
    PV_CHECK(text.is_string(), "{}.{}: expected texts, got {}", place, name, text.type_name());
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

struct Descriptions {
  std::vector<std::string> answers;
  std::vector<std::vector<int>> present, targets;
};

class AnnotatedSet {
 public:
  explicit AnnotatedSet(const std::string& path) : path_(path), json_(read_json(path)) {
    PV_CHECK(json_.is_object(), "{}: expected an object, got {}", path, json_.type_name());
    std::map<std::string, std::vector<std::string>> synonyms;
    if (json_.contains("objects")) {
      const Json objects = json_["objects"].is_string() ? read_table(json_["objects"].get<std::string>()) : json_["objects"];
      PV_CHECK(objects.is_object(), "{}.objects: expected an object of lists of synonyms, or the name of a file with one", path);
      for (const auto& item : objects.items()) {
        names_.push_back(item.key());
        std::vector<std::string>& words = synonyms[item.key()] = texts_at(objects, item.key().c_str(), path + ".objects");
        words.push_back(item.key());
        for (const std::string& plural : irregular_forms(words)) words.push_back(plural);
      }
    }
    vocabulary_.emplace(names_, synonyms);
    read_not_beside();
  }

  Json score() const {
    Json figures = Json::object();
    double chair = 0;
    double f1 = 0;
    const Descriptions descriptions = read_descriptions();
    if (!descriptions.answers.empty()) {
      const ChairScore pooled = score_answers(descriptions.present, descriptions.answers, *vocabulary_);
      figures["chair"] = {{"chair_i", pooled.chair_i},
                          {"chair_s", pooled.chair_s},
                          {"object_recall", pooled.object_recall},
                          {"mean_answer_words", pooled.mean_answer_words},
                          {"answers", descriptions.answers.size()}};
      figures["object_halbench"] =
          object_rates(descriptions.present, descriptions.answers, *vocabulary_).to_json();
      const AmberRates amber =
          amber_rates(descriptions.present, descriptions.targets, descriptions.answers, *vocabulary_);
      figures["amber"]["generative"] = amber.to_json();
      chair = amber.chair;
    }
    const bool has_questions = score_questions(figures, f1);
    if (has_questions && !descriptions.answers.empty()) figures["amber"]["score"] = (1 - chair + f1) / 2;
    PV_CHECK(!figures.empty(), "{}: holds neither \"descriptions\" nor \"questions\"", path_);
    return figures;
  }

 private:
  // A JSON object, or lines of words of which the first is the object's name.
  Json read_table(const std::string& file) const {
    const std::string path = (std::filesystem::path(path_).parent_path() / file).string();
    if (path.ends_with(".json")) return read_json(path);
    Json objects = Json::object();
    std::istringstream lines(read_file(path));
    std::size_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      std::vector<std::string> words;
      std::istringstream parts(line);
      for (std::string word; std::getline(parts, word, ',');) {
        if (says_something(word)) words.emplace_back(trimmed(word));
      }
      if (words.empty()) continue;
      PV_CHECK(!objects.contains(words.front()), "{}:{}: \"{}\" stands there twice", path, number, words.front());
      objects[words.front()] = std::vector<std::string>(words.begin() + 1, words.end());
    }
    return objects;
  }

  // "men" of "man": plurals that the vocabulary's rules do not form.
  static std::vector<std::string> irregular_forms(const std::vector<std::string>& words) {
    std::vector<std::string> forms;
    for (const std::string& word : words) {
      const std::size_t space = word.rfind(' ');
      const std::string before = space == std::string::npos ? "" : word.substr(0, space + 1);
      for (const auto& [plural, singular] : irregular_plurals()) {
        if (singular == word.substr(before.size()) && plural != singular) forms.push_back(before + plural);
      }
    }
    return forms;
  }

  void read_not_beside() {
    if (!json_.contains("not_beside")) return;
    const Json& words = json_["not_beside"];
    PV_CHECK(words.is_object(), "{}.not_beside: expected an object of lists of objects", path_);
    for (const auto& item : words.items()) {
      PV_CHECK(vocabulary_->find(item.key()).size() == 1, "{}.not_beside: \"{}\" is no word of the objects", path_, item.key());
      not_beside_[lower_ascii(item.key())] = classes(words, item.key().c_str(), path_ + ".not_beside");
    }
  }

  // The answer with words struck out that do not count beside what else it names.
  std::string counted_words(std::string answer) const {
    if (not_beside_.empty()) return answer;
    const std::vector<ObjectVocabulary::Mention> mentions = vocabulary_->find(answer);
    std::vector<ObjectVocabulary::Mention> struck;
    for (const auto& mention : mentions) {
      const std::string word = lower_ascii(answer.substr(mention.begin, mention.end - mention.begin));
      for (const auto& [without, objects] : not_beside_) {
        if (word != without && word != plural_of(without)) continue;
        const bool beside = std::any_of(mentions.begin(), mentions.end(), [&objects = objects](const auto& other) {
          return std::find(objects.begin(), objects.end(), other.class_index) != objects.end();
        });
        if (beside) struck.push_back(mention);
      }
    }
    for (const auto& mention : struck) answer.replace(mention.begin, mention.end - mention.begin, mention.end - mention.begin, '_');
    return answer;
  }

  std::string place(const char* list, std::size_t i) const { return fmt::format("{}.{}[{}]", path_, list, i); }

  const Json& list(const char* name) const {
    static const Json none = Json::array();
    if (!json_.contains(name)) return none;
    PV_CHECK(json_[name].is_array(), "{}.{}: expected a list", path_, name);
    return json_[name];
  }

  std::vector<int> classes(const Json& item, const char* name, const std::string& where) const {
    std::vector<int> classes;
    for (const std::string& object : texts_at(item, name, where)) {
      const auto found = std::find(names_.begin(), names_.end(), object);
      const auto close = closest_name(object, names_);
      PV_CHECK(found != names_.end(),
               "{}.{}: \"{}\" is none of the file's objects{}",
               where,
               name,
               object,
               close ? fmt::format(", did you mean \"{}\"?", *close) : "; add it to \"objects\"");
      const int index = static_cast<int>(found - names_.begin());
      if (std::find(classes.begin(), classes.end(), index) == classes.end()) classes.push_back(index);
    }
    std::sort(classes.begin(), classes.end());
    return classes;
  }

  Descriptions read_descriptions() const {
    Descriptions all;
    const Json& items = list("descriptions");
    for (std::size_t i = 0; i < items.size(); ++i) {
      const std::string where = place("descriptions", i);
      all.answers.push_back(counted_words(text_at(items[i], "answer", where)));
      PV_CHECK(items[i].contains("objects"), "{}: needs \"objects\", what is in the picture", where);
      all.present.push_back(classes(items[i], "objects", where));
      all.targets.push_back(classes(items[i], "targets", where));
    }
    return all;
  }

  bool score_questions(Json& figures, double& f1) const {
    struct Questions {
      std::vector<bool> truth;
      std::vector<std::string> answers;
    };
    Questions all;
    std::map<std::string, Questions> kinds;
    const Json& items = list("questions");
    for (std::size_t i = 0; i < items.size(); ++i) {
      const std::string where = place("questions", i);
      const std::string truth = text_at(items[i], "truth", where);
      PV_CHECK(truth == "yes" || truth == "no", "{}.truth: \"{}\" is neither yes nor no", where, truth);
      const std::string answer = text_at(items[i], "answer", where);
      const std::string kind = items[i].contains("kind") ? text_at(items[i], "kind", where) : "all";
      for (Questions* to : {&all, &kinds[kind]}) {
        to->truth.push_back(truth == "yes");
        to->answers.push_back(answer);
      }
    }
    if (all.truth.empty()) return false;
    std::vector<bool> said_yes;
    for (const std::string& answer : all.answers) said_yes.push_back(pope_says_yes(answer));
    figures["pope"] = score_yes_no(all.truth, said_yes).to_json();
    const YesNoScore amber = score_amber_questions(all.truth, all.answers);
    figures["amber"]["discriminative"] = amber.to_json();
    f1 = amber.f1;
    for (const auto& [kind, of] : kinds)
      figures["kinds"][kind] = score_amber_questions(of.truth, of.answers).to_json();
    return true;
  }

  std::string path_;
  Json json_;
  std::vector<std::string> names_;
  std::map<std::string, std::vector<int>> not_beside_;  // word -> classes beside which it does not count
  std::optional<ObjectVocabulary> vocabulary_;
};

}  // namespace

Json score_annotated_set(const std::string& path) { return AnnotatedSet(path).score(); }

}  // namespace pocketvlm
