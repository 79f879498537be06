#include "trainer/hallucination.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/random.h"
#include "data/scenes/object_classes.h"

namespace pocketvlm {
namespace {

double ratio(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

int64_t count_words(const std::string& text) {
  std::istringstream stream(text);
  std::string word;
  int64_t words = 0;
  while (stream >> word) ++words;
  return words;
}

int class_index(const std::string& object, const ObjectVocabulary& vocabulary) {
  const auto& names = vocabulary.names();
  const auto exact = std::find(names.begin(), names.end(), object);
  if (exact != names.end()) return static_cast<int>(exact - names.begin());
  const auto mentions = vocabulary.find(object);  // a synonym
  PV_CHECK(mentions.size() == 1 && mentions[0].begin == 0 && mentions[0].end == object.size(),
           "evaluation: the vocabulary does not know the object \"{}\"; use the class list that "
           "the pictures were made with",
           object);
  return mentions[0].class_index;
}

/// In how many pictures each class, and each pair of classes, appears.
struct Occurrences {
  Occurrences(const std::vector<std::vector<int>>& present, int64_t num_classes)
      : alone(static_cast<std::size_t>(num_classes)) {
    for (const std::vector<int>& classes : present) {
      for (const int a : classes) {
        ++alone[static_cast<std::size_t>(a)];
        for (const int b : classes) {
          if (a != b) ++together[{a, b}];
        }
      }
    }
  }
  int64_t of_pair(int a, int b) const {
    const auto found = together.find({a, b});
    return found == together.end() ? 0 : found->second;
  }

  std::vector<int64_t> alone;
  std::map<std::pair<int, int>, int64_t> together;
};

/// Takes the class with the largest count above `floor` out of `candidates`; -1 when there is none.
/// Ties go to the first.
int take_largest(std::vector<int>& candidates, const auto& count, int64_t floor) {
  auto best = candidates.end();
  int64_t best_count = floor;
  for (auto candidate = candidates.begin(); candidate != candidates.end(); ++candidate) {
    const int64_t value = count(*candidate);
    if (value > best_count) {
      best = candidate;
      best_count = value;
    }
  }
  if (best == candidates.end()) return -1;
  const int taken = *best;
  candidates.erase(best);
  return taken;
}

int take_any(std::vector<int>& candidates, Random& random) {
  const auto place = candidates.begin() + random.below(static_cast<int64_t>(candidates.size()));
  const int taken = *place;
  candidates.erase(place);
  return taken;
}

}  // namespace

std::vector<std::vector<int>> class_indices(const std::vector<std::vector<std::string>>& objects,
                                            const ObjectVocabulary& vocabulary) {
  std::vector<std::vector<int>> result;
  for (const std::vector<std::string>& names : objects) {
    std::set<int> classes;
    for (const std::string& name : names) classes.insert(class_index(name, vocabulary));
    result.emplace_back(classes.begin(), classes.end());
  }
  return result;
}

ChairScore score_answers(const std::vector<std::vector<int>>& present,
                         const std::vector<std::string>& answers,
                         const ObjectVocabulary& vocabulary) {
  PV_CHECK(present.size() == answers.size(),
           "evaluation: {} pictures and {} answers",
           present.size(),
           answers.size());
  int64_t mentions = 0, hallucinated = 0, bad_answers = 0, true_objects = 0, named_objects = 0,
          words = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const std::set<int> truth(present[i].begin(), present[i].end());
    std::set<int> named;
    int64_t wrong = 0;
    for (const ObjectVocabulary::Mention& mention : vocabulary.find(answers[i])) {
      ++mentions;
      if (truth.count(mention.class_index) != 0)
        named.insert(mention.class_index);
      else
        ++wrong;
    }
    hallucinated += wrong;
    bad_answers += wrong > 0 ? 1 : 0;
    true_objects += static_cast<int64_t>(truth.size());
    named_objects += static_cast<int64_t>(named.size());
    words += count_words(answers[i]);
  }
  const auto num_answers = static_cast<int64_t>(answers.size());
  return {ratio(hallucinated, mentions),
          ratio(bad_answers, num_answers),
          ratio(named_objects, true_objects),
          ratio(words, num_answers)};
}

namespace {

/// Distinct objects that an answer names, and which of them are there.
struct NamedObjects {
  std::set<int> right, wrong;
  double all() const { return static_cast<double>(right.size() + wrong.size()); }
};

NamedObjects named_objects(const std::vector<int>& present,
                           const std::string& answer,
                           const ObjectVocabulary& vocabulary) {
  NamedObjects named;
  for (const ObjectVocabulary::Mention& mention : vocabulary.find(answer)) {
    const bool there =
        std::find(present.begin(), present.end(), mention.class_index) != present.end();
    (there ? named.right : named.wrong).insert(mention.class_index);
  }
  return named;
}

}  // namespace

ObjectRates object_rates(const std::vector<std::vector<int>>& present,
                         const std::vector<std::string>& answers,
                         const ObjectVocabulary& vocabulary) {
  PV_CHECK(present.size() == answers.size(),
           "evaluation: {} pictures and {} answers",
           present.size(),
           answers.size());
  int64_t bad_answers = 0, wrong = 0, objects = 0, true_objects = 0, right = 0;
  ObjectRates rates;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const NamedObjects named = named_objects(present[i], answers[i], vocabulary);
    true_objects += static_cast<int64_t>(present[i].size());
    right += static_cast<int64_t>(named.right.size());
    wrong += static_cast<int64_t>(named.wrong.size());
    objects += static_cast<int64_t>(named.right.size() + named.wrong.size());
    rates.answers += named.all() > 0 ? 1 : 0;
    bad_answers += named.wrong.empty() ? 0 : 1;
  }
  rates.response_rate = ratio(bad_answers, rates.answers);
  rates.mention_rate = ratio(wrong, objects);
  rates.object_recall = ratio(right, true_objects);
  return rates;
}

AmberRates amber_rates(const std::vector<std::vector<int>>& present,
                       const std::vector<std::vector<int>>& targets,
                       const std::vector<std::string>& answers,
                       const ObjectVocabulary& vocabulary) {
  PV_CHECK(present.size() == answers.size() && targets.size() == answers.size(),
           "evaluation: {} pictures, {} lists of targets and {} answers",
           present.size(),
           targets.size(),
           answers.size());
  AmberRates rates;
  int64_t described = 0, with_truth = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const NamedObjects named = named_objects(present[i], answers[i], vocabulary);
    rates.hal += named.wrong.empty() ? 0 : 1;
    if (named.all() > 0) {
      ++described;
      rates.chair += static_cast<double>(named.wrong.size()) / named.all();
      int64_t hit = 0;
      for (const int target : targets[i]) hit += named.wrong.count(target) != 0 ? 1 : 0;
      rates.cog += static_cast<double>(hit) / named.all();
    }
    if (present[i].empty()) continue;
    ++with_truth;
    rates.cover += static_cast<double>(named.right.size()) / static_cast<double>(present[i].size());
  }
  const auto mean = [](double& sum, int64_t count) {
    sum = count > 0 ? sum / static_cast<double>(count) : 0.0;
  };
  mean(rates.chair, described);
  mean(rates.cog, described);
  mean(rates.cover, with_truth);
  mean(rates.hal, static_cast<int64_t>(answers.size()));
  return rates;
}

Json ObjectRates::to_json() const {
  return {{"response_rate", response_rate},
          {"mention_rate", mention_rate},
          {"object_recall", object_recall},
          {"answers", answers}};
}

Json AmberRates::to_json() const {
  return {{"chair", chair}, {"cover", cover}, {"hal", hal}, {"cog", cog}};
}

bool pope_says_yes(const std::string& answer) {
  std::string sentence = answer.substr(0, answer.find('.'));
  std::erase(sentence, ',');
  std::istringstream words(sentence);
  for (std::string word; words >> word;) {
    if (word == "No" || word == "no" || word == "not") return false;
  }
  return true;
}

Json YesNoScore::to_json() const {
  return {{"accuracy", accuracy},
          {"precision", precision},
          {"recall", recall},
          {"f1", f1},
          {"yes_ratio", yes_ratio},
          {"questions", questions}};
}

YesNoScore score_yes_no(const std::vector<bool>& truth, const std::vector<bool>& said_yes) {
  PV_CHECK(truth.size() == said_yes.size(),
           "evaluation: {} questions and {} answers",
           truth.size(),
           said_yes.size());
  int64_t true_yes = 0, false_yes = 0, true_no = 0, false_no = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    int64_t& cell =
        truth[i] ? (said_yes[i] ? true_yes : false_no) : (said_yes[i] ? false_yes : true_no);
    ++cell;
  }
  YesNoScore score;
  score.questions = static_cast<int64_t>(truth.size());
  score.accuracy = ratio(true_yes + true_no, score.questions);
  score.precision = ratio(true_yes, true_yes + false_yes);
  score.recall = ratio(true_yes, true_yes + false_no);
  score.f1 = ratio(2 * true_yes, 2 * true_yes + false_yes + false_no);
  score.yes_ratio = ratio(true_yes + false_yes, score.questions);
  return score;
}

YesNoScore score_amber_questions(const std::vector<bool>& truth,
                                 const std::vector<std::string>& answers) {
  PV_CHECK(truth.size() == answers.size(),
           "evaluation: {} questions and {} answers",
           truth.size(),
           answers.size());
  int64_t true_no = 0, false_no = 0, missed_no = 0, true_yes = 0, said_yes = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    std::string word = answers[i].substr(0, answers[i].find_last_not_of(" .\n\t\r") + 1);
    word.erase(0, word.find_first_not_of(" \n\t\r"));
    const bool no = word == "No" || word == "no", yes = word == "Yes" || word == "yes";
    said_yes += yes ? 1 : 0;
    if (truth[i]) {
      true_yes += yes ? 1 : 0;
      false_no += no ? 1 : 0;
    } else {
      (no ? true_no : missed_no) += 1;
    }
  }
  YesNoScore score;
  score.questions = static_cast<int64_t>(truth.size());
  score.accuracy = ratio(true_yes + true_no, score.questions);
  score.precision = ratio(true_no, true_no + false_no);
  score.recall = ratio(true_no, true_no + missed_no);
  score.f1 = ratio(2 * true_no, 2 * true_no + false_no + missed_no);
  score.yes_ratio = ratio(said_yes, score.questions);
  return score;
}

std::vector<PopeQuestions> pope_questions(const std::vector<std::vector<int>>& present,
                                          int64_t num_classes,
                                          int64_t per_image,
                                          uint64_t seed) {
  const Occurrences seen(present, num_classes);
  std::vector<PopeQuestions> result;
  for (std::size_t picture = 0; picture < present.size(); ++picture) {
    Random random({seed, static_cast<uint64_t>(picture)});
    std::vector<int> all(static_cast<std::size_t>(num_classes));
    std::iota(all.begin(), all.end(), 0);
    std::vector<int> absent;
    std::set_difference(all.begin(),
                        all.end(),
                        present[picture].begin(),
                        present[picture].end(),
                        std::back_inserter(absent));

    PopeQuestions questions;
    questions.positive = present[picture];
    random.shuffle(questions.positive);
    const std::size_t count =
        std::min({questions.positive.size(), absent.size(), static_cast<std::size_t>(per_image)});
    questions.positive.resize(count);

    std::vector<int> left = absent;
    while (questions.random.size() < count) questions.random.push_back(take_any(left, random));
    left = absent;
    const auto how_often = [&](int c) { return seen.alone[static_cast<std::size_t>(c)]; };
    while (questions.popular.size() < count)
      questions.popular.push_back(take_largest(left, how_often, -1));
    left = absent;
    for (const int positive : questions.positive) {
      const int together = take_largest(
          left, [&](int c) { return seen.of_pair(positive, c); }, 0);
      questions.adversarial.push_back(together >= 0 ? together : take_any(left, random));
    }
    result.push_back(std::move(questions));
  }
  return result;
}

std::string presence_question(const std::string& name) {
  return fmt::format("is there {} {} in the picture?", article_of(name), name);
}

}  // namespace pocketvlm
