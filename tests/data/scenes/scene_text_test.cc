#include "data/scenes/scene_text.h"

#include <cmath>
#include <regex>
#include <set>

#include "data/scenes/object_classes.h"
#include "scene_testing.h"

namespace pocketvlm {
namespace {

constexpr const char* kPlaces[] = {"at the top left", "at the top",    "at the top right",    "on the left", "in the center",
                                   "on the right",    "at the bottom left", "at the bottom", "at the bottom right"};

/// Judges English answers from the truth alone, by other means than those that wrote them.
class Examiner {
 public:
  Examiner(const Json& truth, int width, int height, const ObjectVocabulary& vocabulary)
      : truth_(truth), width_(width), height_(height), vocabulary_(vocabulary) {}

  std::string place_of(const Json& box) const {
    const double x = (box[0].get<double>() + box[2].get<double>() / 2) / width_;
    const double y = (box[1].get<double>() + box[3].get<double>() / 2) / height_;
    return kPlaces[static_cast<int>(std::floor(y * 3)) * 3 + static_cast<int>(std::floor(x * 3))];
  }

  /// Class named in the text; the text must name exactly one.
  std::string named(const std::string& text) const {
    const auto mentions = vocabulary_.find(text);
    EXPECT_EQ(mentions.size(), 1U) << text;
    return mentions.empty() ? "" : vocabulary_.names()[static_cast<std::size_t>(mentions[0].class_index)];
  }

  int count(const std::string& name, const std::string& place = "") const {
    int number = 0;
    for (const Json& object : truth_["objects"]) {
      number += object["name"] == name && (place.empty() || place_of(object["box"]) == place) ? 1 : 0;
    }
    return number;
  }

  static int number(const std::string& word) {
    static const std::vector<std::string> words = {"zero", "one", "two", "three", "four", "five", "six"};
    const auto place = std::find(words.begin(), words.end(), word);
    EXPECT_NE(place, words.end()) << word;
    return static_cast<int>(place - words.begin());
  }

  /// "a cat and two dogs" holds, of the objects at a place or of all.
  bool list_is_true(const std::string& text, const std::string& place = "") const {
    const std::string list = std::regex_replace(text, std::regex("^a (picture of|photo with) "), "");
    static const std::regex item("(an?|two|three|four|five|six) ([a-z -]+?)(, | and |$)");
    std::map<std::string, int> said, known;
    for (std::sregex_iterator match(list.begin(), list.end(), item), end; match != end; ++match) {
      const std::string quantity = (*match)[1];
      said[named((*match)[2])] += quantity[0] == 'a' ? 1 : number(quantity);
    }
    for (const Json& object : truth_["objects"]) {
      if (place.empty() || place_of(object["box"]) == place) ++known[object["name"]];
    }
    return said == known;
  }

  /// Whether the answer fits; unknown questions fail the test.
  bool accepts(const std::string& question, const std::string& answer) const {
    std::smatch match;
    const auto is = [&](const char* pattern) { return std::regex_match(question, match, std::regex(pattern)); };
    const auto yes = [&](bool truth) { return answer == (truth ? "yes" : "no"); };
    if (is("does the sign say (.+)\\?")) return yes(truth_["sign"] == match[1].str());
    if (is("is there a sign ((?:at|on|in) the [a-z ]+)\\?")) {
      return yes(!truth_["sign"].is_null() && place_of(truth_["sign_box"]) == match[1]);
    }
    if (is("is there an? ([a-z ]+?) in the picture\\?") || is("does the picture show an? ([a-z ]+)\\?") ||
        is("do you see an? ([a-z ]+)\\?")) {
      return yes(count(named(match[1])) > 0);
    }
    if (is("is there an? ([a-z ]+?) ((?:at|on|in) the [a-z ]+)\\?")) return yes(count(named(match[1]), match[2]) > 0);
    if (is("is the ([a-z ]+?) ((?:at|on|in) the [a-z ]+)\\?")) {
      return count(named(match[1])) == 1 && yes(count(named(match[1]), match[2]) == 1);
    }
    if (is("are there ([a-z]+) ([a-z ]+?)( in the picture)?\\?")) return yes(count(named(match[2])) == number(match[1]));
    if (is("how many objects are (there|in the picture)\\?")) return number(answer) == static_cast<int>(truth_["objects"].size());
    if (is("how many ([a-z ]+) are (there|in the picture)\\?") || is("count the ([a-z ]+)\\.")) {
      return number(answer) == count(named(match[1]));
    }
    if (is("where (in the picture )?is the ([a-z ]+)\\?")) return count(named(match[2]), answer) == 1 && count(named(match[2])) == 1;
    if (is("what (is|do you see) ((?:at|on|in) the (?!picture)[a-z ]+)\\?")) return list_is_true(answer, match[2]);
    if (is("which (animal|vehicle|food) is in the picture\\?")) return count(named(answer)) > 0;
    if (is("what does the sign say\\?|read the sign\\.|which word is on the sign\\?")) return truth_["sign"] == answer;
    if (is("what is in the picture\\?|write a short caption\\.|what do you see\\?|what is this\\?|name the object\\.|which object is this\\?")) {
      return list_is_true(answer);
    }
    if (is("describe .*|what does the picture show in detail\\?")) return detail_is_true(answer);
    ADD_FAILURE() << "unknown question: " << question;
    return false;
  }

  bool detail_is_true(const std::string& text) const {
    static const std::regex sentence("There (is|are) ([a-z ]+?) ((?:at|on|in) the [a-z ]+?)\\.");
    int objects = 0, signs = 0;
    for (std::sregex_iterator match(text.begin(), text.end(), sentence), end; match != end; ++match) {
      const std::string what = (*match)[2];
      if (what == "a sign") {
        if (place_of(truth_["sign_box"]) != (*match)[3]) return false;
        ++signs;
        continue;
      }
      const std::string quantity = what.substr(0, what.find(' '));
      const int said = quantity == "a" || quantity == "an" ? 1 : number(quantity);
      if ((said == 1) != ((*match)[1] == "is") || count(named(what), (*match)[3]) != said) return false;
      objects += said;
    }
    if (signs == 1 && text.find("The sign says " + truth_["sign"].get<std::string>() + ".") == std::string::npos) return false;
    return objects == static_cast<int>(truth_["objects"].size()) && signs == (truth_["sign"].is_null() ? 0 : 1);
  }

 private:
  const Json& truth_;
  int width_, height_;
  const ObjectVocabulary& vocabulary_;
};

TEST(SceneText, EveryEnglishAnswerIsTrue) {
  ScenesConfig config = every_task();
  config.max_objects = 5;
  config.widths = {112, 168};
  config.heights = {112, 100};
  const SceneSource source(config, 77);
  const ObjectVocabulary vocabulary = scene_vocabulary(config);
  std::map<std::string, int> answers, tasks;
  for (int i = 0; i < 3000; ++i) {
    const Sample sample = source.at(i);
    const Scene scene = source.scene(i);
    ++tasks[sample.task];
    if (sample.task == "text") {
      ASSERT_EQ(sample.chat.turns.size(), 1U);
      EXPECT_EQ(sample.chat.turns[0].role, "assistant");
      EXPECT_FALSE(sample.chat.turns[0].content.empty());
      continue;
    }
    const Examiner examiner(sample.truth, scene.width, scene.height, vocabulary);
    ASSERT_EQ(sample.chat.turns.size() % 2, 0U);
    EXPECT_EQ(sample.chat.turns.size() > 2, sample.task == "chat");
    for (std::size_t k = 0; k < sample.chat.turns.size(); k += 2) {
      EXPECT_EQ(sample.chat.turns[k].role, "user");
      EXPECT_EQ(sample.chat.turns[k + 1].role, "assistant");
      const std::string &question = sample.chat.turns[k].content, &answer = sample.chat.turns[k + 1].content;
      EXPECT_TRUE(examiner.accepts(question, answer))
          << sample.id << ": " << question << " -> " << answer << "\n" << sample.truth.dump();
      if (sample.task == "yes_no") ++answers[answer];
    }
  }
  EXPECT_EQ(tasks.size(), 10U);
  EXPECT_EQ(answers.size(), 2U);
  EXPECT_NEAR(static_cast<double>(answers["yes"]) / (answers["yes"] + answers["no"]), 0.5, 0.07);
}

TEST(SceneText, SeveralQuestionsAboutAPictureDifferAndHaveTrueAnswers) {
  for (const char* task : {"yes_no", "vqa", "counting", "position"}) {
    ScenesConfig config;
    config.tasks = {{task, 1}};
    config.questions = 5;
    const SceneSource source(config, 31);
    const ObjectVocabulary vocabulary = scene_vocabulary(config);
    std::size_t most = 0;
    for (int i = 0; i < 200; ++i) {
      const Sample sample = source.at(i);
      const Scene scene = source.scene(i);
      const Examiner examiner(sample.truth, scene.width, scene.height, vocabulary);
      std::set<std::string> questions;
      for (std::size_t k = 0; k < sample.chat.turns.size(); k += 2) {
        const std::string& question = sample.chat.turns[k].content;
        EXPECT_TRUE(questions.insert(question).second) << sample.id << " asks twice: " << question;
        EXPECT_TRUE(examiner.accepts(question, sample.chat.turns[k + 1].content)) << sample.id << ": " << question;
      }
      EXPECT_LE(questions.size(), 5U);
      most = std::max(most, questions.size());
      EXPECT_EQ(source.with_task(i, task, "en").chat.turns.size(), 2U);  // what is measured is one question
    }
    EXPECT_EQ(most, 5U) << task;
  }
}

TEST(SceneText, TheExaminerRefusesFalseAnswers) {
  const Json truth = parse_json(
      R"({"objects": [{"name": "cat", "box": [0, 0, 20, 20]}, {"name": "dog", "box": [80, 80, 20, 20]},
                      {"name": "dog", "box": [80, 0, 20, 20]}], "sign": null})",
      "test");
  const ObjectVocabulary vocabulary({"cat", "dog"}, {});
  const Examiner examiner(truth, 100, 100, vocabulary);
  EXPECT_TRUE(examiner.accepts("is there a cat in the picture?", "yes"));
  EXPECT_FALSE(examiner.accepts("is there a cat in the picture?", "no"));
  EXPECT_FALSE(examiner.accepts("is there a cat on the left?", "yes"));
  EXPECT_TRUE(examiner.accepts("how many dogs are there?", "two"));
  EXPECT_FALSE(examiner.accepts("how many dogs are there?", "three"));
  EXPECT_TRUE(examiner.accepts("what do you see?", "a cat and two dogs"));
  EXPECT_FALSE(examiner.accepts("what do you see?", "a cat and a dog"));
  EXPECT_FALSE(examiner.accepts("where is the cat?", "on the left"));
  EXPECT_TRUE(examiner.accepts("describe it",
                               "There is a cat at the top left. There is a dog at the top right. There is a dog at the "
                               "bottom right."));
  EXPECT_FALSE(examiner.accepts("describe it", "There is a cat at the top left. There is a dog at the top right."));
}

TEST(SceneText, EachKindOfYesNoQuestionIsHalfTrue) {
  ScenesConfig config;
  config.max_objects = 5;
  config.tasks = {{"yes_no", 1}};
  config.sign_probability = 0.5;
  const SceneSource source(config, 12);
  std::map<std::string, std::array<int, 2>> kinds;
  for (int i = 0; i < 6000; ++i) {
    const Sample sample = source.with_task(i, "yes_no", "en");
    const std::string& question = sample.chat.turns[0].content;
    const std::string kind = question.starts_with("does the sign")    ? "sign says"
                             : question.starts_with("is there a sign") ? "sign at"
                             : question.ends_with("in the picture?")   ? (question.starts_with("are") ? "count" : "exists")
                             : question.starts_with("are there")       ? "count"
                             : question.starts_with("is the ")         ? "is at"
                                                                       : "exists at";
    ++kinds[kind][sample.chat.turns[1].content == "yes" ? 1 : 0];
  }
  EXPECT_EQ(kinds.size(), 6U);
  for (const auto& [kind, counts] : kinds) {
    const double total = counts[0] + counts[1];
    EXPECT_GT(total, 100) << kind;
    EXPECT_NEAR(counts[1] / total, 0.5, 2.5 / std::sqrt(total)) << kind;
  }
}

TEST(SceneText, CleanCaptionsNameExactlyWhatIsThere) {
  ScenesConfig config;
  config.tasks = {{"caption", 1}, {"detailed", 1}};
  const SceneSource source(config, 31);
  const ObjectVocabulary vocabulary = scene_vocabulary(config);
  for (int i = 0; i < 500; ++i) {
    const Sample sample = source.at(i);
    std::set<std::string> said, known;
    for (const auto& mention : vocabulary.find(sample.chat.turns[1].content)) {
      said.insert(vocabulary.names()[static_cast<std::size_t>(mention.class_index)]);
    }
    for (const Json& name : sample.truth["classes"]) known.insert(name);
    EXPECT_EQ(said, known) << sample.chat.turns[1].content;
  }
}

TEST(SceneText, NoisyCaptionsAreWrongAtTheGivenRates) {
  ScenesConfig config;
  config.false_object_rate = 0.3;
  config.missing_object_rate = 0.2;
  const SceneSource source(config, 31);
  const ObjectVocabulary vocabulary = scene_vocabulary(config);
  int named = 0, false_names = 0, known = 0;
  for (int i = 0; i < 4000; ++i) {
    const Sample sample = source.at(i);
    if (sample.truth["classes"].size() < 3) continue;  // one object is always named
    known += static_cast<int>(sample.truth["classes"].size());
    for (const auto& mention : vocabulary.find(sample.chat.turns[1].content)) {
      ++named;
      false_names += sample.truth["counts"].contains(vocabulary.names()[static_cast<std::size_t>(mention.class_index)]) ? 0 : 1;
    }
    // Detailed answers, and what evaluation asks for, stay clean.
    if (i < 50) {
      const Sample clean = source.with_task(i, "caption", "en");
      EXPECT_EQ(vocabulary.find(clean.chat.turns[1].content).size(), clean.truth["classes"].size());
    }
  }
  EXPECT_GT(known, 2000);
  EXPECT_NEAR(static_cast<double>(false_names) / named, 0.3, 0.03);
  EXPECT_NEAR(static_cast<double>(named) / known, 0.8, 0.02);
}

TEST(SceneText, TeachersEmbellishSparsePicturesAtTheGivenRate) {
  ScenesConfig config;
  config.tasks = {{"detailed", 1}};
  config.invented_object_rate = 0.6;
  const SceneSource source(config, 21);
  const ObjectVocabulary vocabulary = scene_vocabulary(config);
  int sparse = 0, embellished = 0;
  for (int i = 0; i < 1500; ++i) {
    const Sample sample = source.at(i);
    std::set<std::string> there;
    for (const Json& object : sample.truth["objects"]) there.insert(object["name"].get<std::string>());
    int invented = 0;
    for (const auto& mention : vocabulary.find(sample.chat.turns[1].content)) {
      invented += there.count(vocabulary.names()[static_cast<std::size_t>(mention.class_index)]) == 0 ? 1 : 0;
    }
    const bool few = sample.truth["objects"].size() <= 2;
    EXPECT_LE(invented, few ? 1 : 0) << sample.chat.turns[1].content;
    sparse += few ? 1 : 0;
    embellished += invented;
    // What is measured stays true.
    const std::string clean = source.with_task(i, "detailed", "en").chat.turns[1].content;
    for (const auto& mention : vocabulary.find(clean)) {
      EXPECT_EQ(there.count(vocabulary.names()[static_cast<std::size_t>(mention.class_index)]), 1U) << clean;
    }
  }
  ASSERT_GT(sparse, 300);
  EXPECT_NEAR(static_cast<double>(embellished) / sparse, 0.6, 0.06);
}

TEST(SceneText, AnEmptySceneHasTrueTextsToo) {
  ScenesConfig config = every_task();
  config.min_objects = 0;
  config.max_objects = 1;
  config.sign_probability = 0;
  config.tasks.erase("ocr");
  config.tasks.erase("name");
  const SceneSource source(config, 5);
  int empty = 0;
  for (int i = 0; i < 200; ++i) {
    const Sample sample = source.at(i);
    if (!sample.truth["objects"].empty()) continue;
    ++empty;
    EXPECT_FALSE(sample.chat.turns.back().content.empty());
    if (sample.task == "detailed") {
      EXPECT_EQ(sample.chat.turns[1].content, "There is nothing in the picture.");
    }
    if (sample.task == "yes_no") {
      EXPECT_EQ(sample.chat.turns[1].content, "no");
    }
  }
  EXPECT_GT(empty, 50);
}

TEST(SceneText, LanguagesUseTheirOwnNamesAndAnswers) {
  const std::map<std::string, std::pair<std::string, std::string>> yes_no = {
      {"zh", {"有", "没有"}}, {"ja", {"はい", "いいえ"}}, {"de", {"ja", "nein"}}, {"fr", {"oui", "non"}},
      {"es", {"sí", "no"}},   {"ru", {"да", "нет"}},     {"pt", {"sim", "não"}}, {"ko", {"네", "아니요"}},
      {"it", {"sì", "no"}},   {"ar", {"نعم", "لا"}},     {"hi", {"हाँ", "नहीं"}}};
  ScenesConfig config = every_task();
  config.languages = {{"en", 1}, {"sw", 1}};
  for (const auto& [language, words] : yes_no) config.languages[language] = 1;
  config.classes = {"cat", "dog", "car", "banana", "house", "tree"};
  const SceneSource source(config, 3);
  for (const auto& [language, words] : yes_no) {
    std::set<std::string> answers;
    for (int i = 0; i < 30; ++i) {
      for (const char* task : {"caption", "detailed", "vqa", "counting", "position", "ocr", "yes_no", "chat", "text", "name"}) {
        const Sample sample = source.with_task(i, task, language);
        for (const Turn& turn : sample.chat.turns) {
          EXPECT_FALSE(turn.content.empty()) << language << " " << task;
          EXPECT_EQ(turn.content.find('{'), std::string::npos) << turn.content;
        }
        if (std::string(task) == "yes_no") answers.insert(sample.chat.turns[1].content);
        if (std::string(task) == "counting") {
          EXPECT_NE(sample.chat.turns[1].content.find_first_of("0123456789"), std::string::npos);
        }
      }
    }
    EXPECT_EQ(answers, (std::set<std::string>{words.first, words.second})) << language;
  }
  ScenesConfig single = config;
  single.max_objects = 1;
  single.classes = {"cat", "house"};
  const SceneSource one(single, 3);
  std::set<std::string> captions;
  for (int i = 0; i < 30; ++i) captions.insert(one.with_task(i, "caption", "de").chat.turns[1].content);
  EXPECT_EQ(captions, (std::set<std::string>{"Auf dem Bild: Katze.", "Auf dem Bild: Haus."}));
}

TEST(SceneText, EnglishFormsPluralsAndArticles) {
  EXPECT_EQ(plural_of("cat"), "cats");
  EXPECT_EQ(plural_of("bus"), "buses");
  EXPECT_EQ(plural_of("cherry"), "cherries");
  EXPECT_EQ(plural_of("key"), "keys");
  EXPECT_EQ(plural_of("hot dog"), "hot dogs");
  EXPECT_EQ(plural_of("computer mouse"), "computer mice");
  EXPECT_EQ(article_of("apple"), "an");
  EXPECT_EQ(article_of("umbrella"), "an");
  EXPECT_EQ(article_of("unicorn"), "a");
  EXPECT_EQ(article_of("house"), "a");
}

}  // namespace
}  // namespace pocketvlm
