#include "rlaif/annotated_set.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/config.h"
#include "base/error.h"
#include "data/scenes/scene_source.h"
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
      PV_CHECK(json_["objects"].is_object(), "{}.objects: expected an object of lists of synonyms", path);
      for (const auto& item : json_["objects"].items()) {
        names_.push_back(item.key());
        synonyms[item.key()] = texts_at(json_["objects"], item.key().c_str(), path + ".objects");
      }
    }
    vocabulary_.emplace(names_, synonyms);
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
      all.answers.push_back(text_at(items[i], "answer", where));
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
  std::optional<ObjectVocabulary> vocabulary_;
};

}  // namespace

Json score_annotated_set(const std::string& path) { return AnnotatedSet(path).score(); }

}  // namespace pocketvlm
