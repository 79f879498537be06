#include "rlaif/truth.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/scenes/scene_composer.h"
#include "rlaif/language_claims.h"

namespace pocketvlm {
namespace {

struct Spot {
  std::string_view name;
  int cell;
};
// Two words before one: "on the top left" is not "left".
constexpr std::array<Spot, 17> kSpots = {{{"top left", 0},
                                          {"upper left", 0},
                                          {"top right", 2},
                                          {"upper right", 2},
                                          {"bottom left", 6},
                                          {"lower left", 6},
                                          {"bottom right", 8},
                                          {"lower right", 8},
                                          {"top", 1},
                                          {"left", 3},
                                          {"center", 4},
                                          {"centre", 4},
                                          {"middle", 4},
                                          {"right", 5},
                                          {"bottom", 7},
                                          {"foreground", -1},
                                          {"background", -1}}};

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

constexpr int kAnywhere = 9;

// Takes " in the picture" or " at the top left" off the end: the cell, kAnywhere, or nothing.
std::optional<int> take_place(std::string_view& text) {
  if (take_suffix(text, " in the picture")) return kAnywhere;
  std::string_view rest = text;
  if (!take_suffix(rest, " corner")) take_suffix(rest, " side");
  for (const Spot& spot : kSpots) {
    std::string_view before = rest;
    if (!take_suffix(before, spot.name)) continue;
    for (const std::string_view preposition : {" on the ", " at the ", " in the ", " to the "}) {
      if (!take_suffix(before, preposition)) continue;
      if (spot.cell < 0) return std::nullopt;
      text = before;
      return spot.cell;
    }
  }
  return std::nullopt;
}

// The class that a name as a whole stands for, singular or plural.
std::optional<std::string> class_of(std::string_view name, const ObjectVocabulary& vocabulary) {
  const std::vector<ObjectVocabulary::Mention> mentions = vocabulary.find(std::string(name));
  if (mentions.size() != 1 || mentions[0].begin != 0 || mentions[0].end != name.size())
    return std::nullopt;
  return vocabulary.names()[static_cast<std::size_t>(mentions[0].class_index)];
}

// How many are there; nothing when the truth does not say. Objects without a box may stand for several, anywhere: of them
// it is only known that there are some (`any`: that is all that is asked).
std::optional<std::int64_t> count_at(const std::string& name, int cell, bool any, const Json& truth, int width, int height) {
  std::int64_t count = 0;
  bool has_boxes = true;
  for (const Json& object : truth.at("objects")) {
    if (object.at("name").get<std::string>() != name) continue;
    if (!object.contains("box")) {
      has_boxes = false;
      ++count;
      continue;
    }
    const Json& box = object.at("box");
    SceneObject place;
    place.x = box.at(0).get<int>();
    place.y = box.at(1).get<int>();
    place.width = box.at(2).get<int>();
    place.height = box.at(3).get<int>();
    count += cell == kAnywhere || cell_of(place, width, height) == cell ? 1 : 0;
  }
  if (!has_boxes && (cell != kAnywhere || !any)) return std::nullopt;
  if (count == 0 && truth.contains("absent")) {
    for (const Json& absent : truth.at("absent")) {
      if (absent.get<std::string>() == name) return 0;
    }
    const bool elsewhere = std::any_of(truth.at("objects").begin(), truth.at("objects").end(), [&](const Json& object) {
      return object.at("name").get<std::string>() == name;
    });
    if (!elsewhere) return std::nullopt;
  }
  return count;
}

std::optional<std::int64_t> number_of(std::string_view word) {
  static constexpr std::array<std::string_view, 13> kWords = {"zero",
                                                              "one",
                                                              "two",
                                                              "three",
                                                              "four",
                                                              "five",
                                                              "six",
                                                              "seven",
                                                              "eight",
                                                              "nine",
                                                              "ten",
                                                              "eleven",
                                                              "twelve"};
  const auto found = std::find(kWords.begin(), kWords.end(), word);
  if (found != kWords.end()) return found - kWords.begin();
  if (word.empty() || word.size() > 4 ||
      word.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  return std::stoll(std::string(word));
}

// Of a question in another language.
std::optional<bool> truth_of(const PatternQuestion& question,
                             const Json& truth,
                             int width,
                             int height,
                             const ObjectVocabulary& vocabulary) {
  if (question.name.empty()) {
    if (!truth.contains("sign")) return std::nullopt;
    const Json& sign = truth.at("sign");
    if (question.writing) return sign.is_string() && sign.get<std::string>() == *question.writing;
    if (sign.is_null()) return false;
    return question.cell < 0 ? std::optional(true) : std::nullopt;
  }
  const std::optional<int> object = vocabulary.named(question.language, question.name);
  if (!object) return std::nullopt;
  const std::string& name = vocabulary.names()[static_cast<std::size_t>(*object)];
  const bool any = question.count <= 0;
  const auto count = count_at(name, question.cell < 0 ? kAnywhere : question.cell, any, truth, width, height);
  if (!count) return std::nullopt;
  return any ? *count > 0 : *count == question.count;
}

}  // namespace

std::optional<bool> truth_of(const std::string& question,
                             const Json& truth,
                             int width,
                             int height,
                             const ObjectVocabulary& vocabulary) {
  if (!truth.is_object() || !truth.contains("objects")) return std::nullopt;
  if (const auto foreign = read_pattern_question(question)) return truth_of(*foreign, truth, width, height, vocabulary);
  std::string_view rest = question;
  if (!take_suffix(rest, "?")) return std::nullopt;
  const bool knows_sign = truth.contains("sign");
  if (take_prefix(rest, "does the sign say ")) {
    if (!knows_sign) return std::nullopt;
    return truth.at("sign").is_string() && truth.at("sign").get<std::string>() == rest;
  }
  std::optional<std::int64_t> exactly;
  if (take_prefix(rest, "are there ")) {
    const std::size_t space = rest.find(' ');
    exactly = number_of(rest.substr(0, space));
    if (!exactly || space == std::string_view::npos) return std::nullopt;
    rest.remove_prefix(space + 1);
  } else if (!take_prefix(rest, "is there a ") && !take_prefix(rest, "is there an ") &&
             !take_prefix(rest, "is the ")) {
    return std::nullopt;
  }
  const std::optional<int> cell = take_place(rest);
  if (!cell) return std::nullopt;
  if (rest == "sign" && knows_sign) {
    if (truth.at("sign").is_null()) return false;
    // The truth holds no box of the sign.
    return *cell == kAnywhere && !exactly ? std::optional(true) : std::nullopt;
  }
  const std::optional<std::string> name = class_of(rest, vocabulary);
  if (!name) return std::nullopt;
  const auto count = count_at(*name, *cell, !exactly, truth, width, height);
  if (!count) return std::nullopt;
  return exactly ? *count == *exactly : *count > 0;
}

void check_truth(const Json& truth, const std::string& where) {
  PV_CHECK(truth.is_object() && truth.contains("objects") && truth["objects"].is_array(),
           "{}: truth is no object with a list of \"objects\"",
           where);
  for (const Json& object : truth["objects"]) {
    PV_CHECK(object.is_object() && object.contains("name") && object["name"].is_string(),
             "{}: truth.objects: each is {{\"name\": ..., \"box\": [x, y, width, height]}}, the box may be missing; got {}",
             where,
             object.dump());
    if (!object.contains("box")) continue;
    const Json& box = object["box"];
    PV_CHECK(box.is_array() && box.size() == 4 &&
                 std::all_of(box.begin(), box.end(), [](const Json& side) { return side.is_number(); }),
             "{}: truth.objects: a box is [x, y, width, height] in pixels; got {}",
             where,
             box.dump());
  }
  if (truth.contains("absent")) {
    PV_CHECK(truth["absent"].is_array() && std::all_of(truth["absent"].begin(),
                                                       truth["absent"].end(),
                                                       [](const Json& name) { return name.is_string(); }),
             "{}: truth.absent is no list of names",
             where);
  }
  PV_CHECK(!truth.contains("sign") || truth["sign"].is_null() || truth["sign"].is_string(),
           "{}: truth.sign is neither text nor null",
           where);
}

}  // namespace pocketvlm
