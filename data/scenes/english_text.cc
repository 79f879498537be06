#include <array>

#include "base/error.h"
#include "data/scenes/object_classes.h"
#include "data/scenes/scene_text.h"

namespace pocketvlm {
namespace {

constexpr std::array<const char*, 9> kPositions = {
    "at the top left",    "at the top",    "at the top right",
    "on the left",        "in the center", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right"};

std::string number_word(int number) {
  static constexpr std::array<const char*, 17> kWords = {
      "zero", "one", "two",    "three",  "four",     "five",    "six",     "seven",  "eight",
      "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"};
  return number < static_cast<int>(kWords.size()) ? kWords[static_cast<std::size_t>(number)]
                                                  : std::to_string(number);
}

std::string with_article(const std::string& name) { return article_of(name) + " " + name; }

/// "a cat", "two cats"
std::string counted(const std::string& name, int count) {
  return count == 1 ? with_article(name) : number_word(count) + " " + plural_of(name);
}

/// "a cat, two dogs and an apple"
std::string listed(const std::vector<SceneFacts::Count>& items, const std::vector<ObjectClass>& classes) {
  if (items.empty()) return "nothing";
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
    text += counted(classes[static_cast<std::size_t>(items[i].class_index)].name, items[i].count);
  }
  return text;
}

std::string detailed(const SceneFacts& facts, const Query& query, const std::vector<ObjectClass>& classes) {
  std::string text;
  const auto add = [&](const std::string& sentence) { text += (text.empty() ? "" : " ") + sentence; };
  for (const SceneFacts::Group& group : facts.groups) {
    const std::string& name = classes[static_cast<std::size_t>(group.class_index)].name;
    add(fmt::format("There {} {} {}.",
                    group.count == 1 ? "is" : "are",
                    counted(name, group.count),
                    kPositions[static_cast<std::size_t>(group.cell)]));
  }
  if (!facts.sign_text.empty()) {
    add(fmt::format("There is a sign {}. The sign says {}.",
                    kPositions[static_cast<std::size_t>(facts.sign_cell)],
                    facts.sign_text));
  }
  if (query.class_index >= 0) {
    add(fmt::format("There is {} {}.",
                    with_article(classes[static_cast<std::size_t>(query.class_index)].name),
                    kPositions[static_cast<std::size_t>(query.cell)]));
  }
  return text.empty() ? "There is nothing in the picture." : text;
}

}  // namespace

QuestionAnswer say_in_english(const Query& query,
                              const SceneFacts& facts,
                              const std::vector<ObjectClass>& classes,
                              Random& random,
                              bool canonical) {
  // The first phrasing is the usual one and gets half of the weight.
  const auto one_of_phrasings = [&](std::initializer_list<std::string> phrasings) {
    const std::vector<std::string> list(phrasings);
    return canonical || random.chance(0.5) ? list.front() : random.pick(list);
  };
  const std::string name =
      query.class_index < 0 ? "" : classes[static_cast<std::size_t>(query.class_index)].name;
  const std::string place = query.cell < 0 ? "" : kPositions[static_cast<std::size_t>(query.cell)];
  const std::string yes = query.yes ? "yes" : "no";
  switch (query.kind) {
    case Query::kName:
      return {one_of_phrasings({"what is this?", "name the object.", "which object is this?"}),
              listed(query.items, classes)};
    case Query::kCaption: {
      const std::string list = listed(query.items, classes);
      return {one_of_phrasings({"what is in the picture?", "write a short caption.", "what do you see?"}),
              one_of_phrasings({list, "a picture of " + list, "a photo with " + list})};
    }
    case Query::kDetailed:
      return {one_of_phrasings({"describe the picture in detail.",
                                "describe everything in the picture.",
                                "what does the picture show in detail?"}),
              detailed(facts, query, classes)};
    case Query::kExists: {
      const std::string object = with_article(name);
      return {one_of_phrasings({fmt::format("is there {} in the picture?", object),
                                fmt::format("is there {} in the picture?", object),
                                fmt::format("does the picture show {}?", object),
                                fmt::format("do you see {}?", object)}),
              yes};
    }
    case Query::kExistsAt: return {fmt::format("is there {} {}?", with_article(name), place), yes};
    case Query::kIsAt: return {fmt::format("is the {} {}?", name, place), yes};
    case Query::kExactCount:
      return {fmt::format("are there {} {}{}?",
                          number_word(query.count),
                          plural_of(name),
                          one_of_phrasings({"", " in the picture"})),
              yes};
    case Query::kHowMany:
      return {one_of_phrasings({fmt::format("how many {} are there?", plural_of(name)),
                                fmt::format("how many {} are in the picture?", plural_of(name)),
                                fmt::format("count the {}.", plural_of(name))}),
              number_word(query.count)};
    case Query::kHowManyObjects:
      return {one_of_phrasings({"how many objects are there?", "how many objects are in the picture?"}),
              number_word(query.count)};
    case Query::kWhere:
      return {one_of_phrasings({fmt::format("where is the {}?", name),
                                fmt::format("where in the picture is the {}?", name)}),
              place};
    case Query::kWhatAt:
      return {one_of_phrasings({fmt::format("what is {}?", place), fmt::format("what do you see {}?", place)}),
              listed(query.items, classes)};
    case Query::kWhichOfGroup: {
      const std::string& group = classes[static_cast<std::size_t>(query.class_index)].group;
      return {fmt::format("which {} is in the picture?", group), listed(query.items, classes)};
    }
    case Query::kReadSign:
      return {one_of_phrasings({"what does the sign say?", "read the sign.", "which word is on the sign?"}),
              query.text};
    case Query::kSignAt: return {fmt::format("is there a sign {}?", place), yes};
    case Query::kSignSays: return {fmt::format("does the sign say {}?", query.text), yes};
  }
  fail("unknown query kind {}", static_cast<int>(query.kind));
}

const char* position_words(int cell) { return kPositions[static_cast<std::size_t>(cell)]; }

}  // namespace pocketvlm
