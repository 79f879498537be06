#include "rlaif/claim_attributes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

using Words = std::set<std::string, std::less<>>;

const Words& colours() {
  static const Words words = {"red",  "orange", "yellow", "green",  "blue", "purple", "pink",      "brown",  "black", "white", "gray",
                              "grey", "golden", "silver", "beige",  "tan",  "teal",   "turquoise", "maroon", "navy",  "violet"};
  return words;
}

const Words& shades() {
  static const Words words = {"dark", "light", "bright", "pale", "deep"};
  return words;
}

const Words& materials() {
  static const Words words = {"metal", "plastic", "leather", "brick", "stone", "glass", "wood", "concrete"};
  return words;
}

const Words& qualities() {
  static const Words words = {"big",    "large",    "small",     "tiny",      "little",  "huge",    "giant",    "tall",        "short",
                              "long",   "wide",     "narrow",    "thick",     "thin",    "round",   "square",   "rectangular", "circular",
                              "flat",   "curved",   "old",       "new",       "young",   "empty",   "full",     "open",        "closed",
                              "broken", "clean",    "dirty",     "wet",       "dry",     "striped", "spotted",  "checkered",   "plaid",
                              "floral", "colorful", "colourful", "transparent", "shiny", "wooden",  "fluffy",   "furry",       "dark",
                              "bright", "pale",     "bare",      "snowy",     "sandy",   "grassy",  "rusty",    "modern",      "parked"};
  return words;
}

// Two words that are one name, though the first says how things are elsewhere.
const Words& whole_names() {
  static const Words words = {"black board", "white board", "green house", "round table",  "short cake",  "orange juice", "red wine",
                              "white wine",  "glass case",  "glass house", "stone age",    "metal band",  "plastic surgery",
                              "brown bear",  "black bear",  "grey wolf",   "golden retriever", "silver ware", "square root", "open air"};
  return words;
}

bool has(const Words& words, std::string_view word) { return words.find(word) != words.end(); }

// "red-and-white", "long-haired"; the hyphen of other words ("t-shirt") joins a name.
bool is_joined_quality(const std::string& word) {
  const std::size_t hyphen = word.find('-');
  if (hyphen == std::string::npos) return false;
  return word.ends_with("ed") || has(colours(), word.substr(0, hyphen));
}

// The attribute that begins at words[at] and how many words it takes; 0: none.
std::size_t attribute_at(const std::vector<std::string>& words, std::size_t at, std::string& attribute) {
  const std::string& word = words[at];
  if (has(shades(), word) && at + 1 < words.size() && has(colours(), words[at + 1])) {
    attribute = word + " " + words[at + 1];
    return 2;
  }
  if (has(materials(), word)) {
    attribute = "made of " + word;
    return 1;
  }
  if (!has(colours(), word) && !has(qualities(), word) && !is_joined_quality(word)) return 0;
  attribute = word;
  return 1;
}

// Words that a clause may begin with: who or what it is about.
bool begins_clause(std::string_view clause) {
  static const Words starts = {"a",    "an",   "the",  "there", "another", "one",  "two",  "three", "four", "five",    "six",
                               "some", "many", "both", "it",    "he",      "she",  "they", "his",   "her",  "their",   "its",
                               "this", "that", "these", "those", "each",   "all",  "most", "no",    "several", "someone", "people"};
  return has(starts, lower_ascii(std::string(clause.substr(0, clause.find_first_of(" ,'")))));
}

bool has_verb(std::string_view clause) {
  static const Words verbs = {"is",    "are",   "was",    "were",   "has",    "have",   "had",    "can",    "could",  "will",   "would",
                              "may",   "might", "does",   "do",     "did",    "sits",   "sit",    "stands", "stand",  "lies",   "lie",
                              "wears", "wear",  "holds",  "hold",   "looks",  "look",   "walks",  "walk",   "runs",   "run",    "rides",
                              "ride",  "eats",  "eat",    "plays",  "play",   "flies",  "fly",    "says",   "say",    "reads",  "read",
                              "shows", "show",  "seems",  "seem",   "leans",  "lean",   "rests",  "rest",   "hangs",  "hang",   "drives",
                              "drive", "grows", "grow",   "covers", "cover",  "surrounds", "surround", "appears", "appear", "sleeps", "sleep",
                              "jumps", "jump",  "swims",  "swim",   "carries", "carry", "watches", "watch", "faces",  "face",   "contains",
                              "contain", "fills", "fill", "stretches", "stretch", "crosses", "cross", "reaches", "reach"};
  for (const std::string& word : words_of(clause)) {
    if (has(verbs, lower_ascii(std::string(trimmed(word, " ,.!"))))) return true;
  }
  return false;
}

}  // namespace

Attributes take_attributes(std::string& name) {
  std::vector<std::string> words = words_of(name);
  Attributes attributes;
  std::size_t at = 0;
  while (at + 1 < words.size()) {
    if (has(whole_names(), words[at] + " " + words[at + 1])) break;
    std::string attribute;
    const std::size_t taken = attribute_at(words, at, attribute);
    if (taken == 0 || at + taken >= words.size()) break;
    attributes.push_back(std::move(attribute));
    at += taken;
  }
  words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(at));
  name = fmt::format("{}", fmt::join(words, " "));
  return attributes;
}

Attributes read_attributes(std::string_view predicate) {
  std::string text(predicate);
  std::replace(text.begin(), text.end(), ',', ' ');
  const std::vector<std::string> words = words_of(text);
  Attributes attributes;
  std::size_t last_colour = words.size();  // its place behind the words read
  for (std::size_t at = 0; at < words.size();) {
    if (words[at] == "and" && at > 0 && at + 1 < words.size()) {
      ++at;
      continue;
    }
    std::string attribute;
    std::size_t taken = 0;
    if (words[at] == "made" && at + 2 < words.size() && words[at + 1] == "of") {
      attribute = "made of " + words[at + 2];
      taken = 3;
    } else {
      taken = attribute_at(words, at, attribute);
    }
    if (taken == 0) return {};
    const bool is_colour = has(colours(), words[at + taken - 1]) && taken < 3;
    if (is_colour && last_colour + 1 == at && words[last_colour] == "and") attributes.back() += " and " + attribute;
    else attributes.push_back(std::move(attribute));
    at += taken;
    last_colour = is_colour ? at : words.size();
  }
  return attributes;
}

std::vector<std::string> clauses_of(std::string_view sentence) {
  std::vector<std::string> clauses;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < sentence.size(); ++at) {
    for (const std::string_view joint : {", and ", ", while ", ", but ", ", whereas ", " and ", " while ", " but "}) {
      if (!sentence.substr(at).starts_with(joint)) continue;
      const std::string_view left = trimmed(sentence.substr(begin, at - begin), " ,;");
      const std::string_view right = sentence.substr(at + joint.size());
      if (!begins_clause(left) || !has_verb(left) || !begins_clause(right)) break;
      // The verb must come before the next joint's clause does.
      if (!has_verb(right.substr(0, right.find(" and ")))) break;
      clauses.emplace_back(left);
      begin = at + joint.size();
      at = begin - 1;
      break;
    }
  }
  clauses.emplace_back(trimmed(sentence.substr(begin), " ,;"));
  return clauses;
}

}  // namespace pocketvlm
