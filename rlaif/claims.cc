#include "rlaif/claims.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

#include "data/scenes/object_classes.h"
#include "rlaif/claim_attributes.h"
#include "rlaif/language_claims.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// What may stand before the things that a description names; stripped again and again. The bool
// says whether it announces things that exist, so that bare nouns may follow.
struct Opening {
  std::string_view text;
  bool announces;
};
constexpr Opening kOpenings[] = {
    {"and ", false},
    {"also, ", false},
    {"also ", false},
    {"additionally, ", false},
    {"in addition, ", false},
    {"in the picture, ", false},
    {"in the picture ", false},
    {"in the image, ", false},
    {"in the image ", false},
    {"in this picture, ", false},
    {"in this picture ", false},
    {"in this image, ", false},
    {"in this image ", false},
    {"the picture shows ", true},
    {"the image shows ", true},
    {"the photo shows ", true},
    {"the picture contains ", true},
    {"the image contains ", true},
    {"the photo contains ", true},
    {"the picture has ", true},
    {"the image has ", true},
    {"this picture shows ", true},
    {"this image shows ", true},
    {"this is a picture of ", true},
    {"this is an image of ", true},
    {"this is a photo of ", true},
    {"a picture of ", true},
    {"an image of ", true},
    {"a photo of ", true},
    {"a picture with ", true},
    {"an image with ", true},
    {"a photo with ", true},
    {"a picture showing ", true},
    {"an image showing ", true},
    {"a photo showing ", true},
    {"i can see ", true},
    {"you can see ", true},
    {"we can see ", true},
    {"i see ", true},
    {"we see ", true},
    {"there is also ", true},
    {"there are also ", true},
    {"there is ", true},
    {"there are ", true},
    {"there's ", true},
};

struct Remainder {
  std::string_view text;
  bool announced = false;
};

Remainder without_openings(std::string_view text) {
  Remainder rest{text};
  for (bool found = true; found;) {
    found = false;
    for (const Opening& opening : kOpenings) {
      if (!rest.text.starts_with(opening.text)) continue;
      rest.text.remove_prefix(opening.text.size());
      rest.announced |= opening.announces;
      found = true;
    }
  }
  return rest;
}

// Where something can be said to be. "in the picture" is no place: every object is there.
const std::vector<std::string>& places() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list;
    const std::vector<std::string> spots = {"top left",
                                            "top right",
                                            "bottom left",
                                            "bottom right",
                                            "upper left",
                                            "upper right",
                                            "lower left",
                                            "lower right",
                                            "left",
                                            "right",
                                            "top",
                                            "bottom",
                                            "center",
                                            "centre",
                                            "middle",
                                            "foreground",
                                            "background"};
    for (const std::string& spot : spots) {
      for (const char* preposition : {"on", "at", "in", "to"}) {
        list.push_back(fmt::format("{} the {}", preposition, spot));
        for (const char* tail : {"side", "corner"})
          list.push_back(fmt::format("{} the {} {}", preposition, spot, tail));
      }
    }
    // Longest first: "at the top left corner" before "at the top left".
    std::stable_sort(
        list.begin(), list.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
    return list;
  }();
  return all;
}

std::string_view without_picture(std::string_view text) {
  for (const std::string_view tail : {" in the picture",
                                      " in the image",
                                      " in the photo",
                                      " of the picture",
                                      " of the image",
                                      " of the photo",
                                      " in this picture",
                                      " in this image"}) {
    if (text.ends_with(tail)) return trimmed(text.substr(0, text.size() - tail.size()));
  }
  return text;
}

// Takes a place off the end of `text`; empty when it has none.
std::string take_last_place(std::string_view& text) {
  text = without_picture(text);
  for (const std::string& place : places()) {
    if (text.size() > place.size() && text.ends_with(place) &&
        text[text.size() - place.size() - 1] == ' ') {
      text = trimmed(text.substr(0, text.size() - place.size()), " ,");
      return place;
    }
  }
  return "";
}

// "on the left there is a cat", "at the top, a cat": takes the place off the start.
std::string take_first_place(std::string_view& text) {
  for (const std::string& place : places()) {
    if (!text.starts_with(place) || text.size() == place.size()) continue;
    std::string_view rest = text.substr(place.size());
    if (rest.front() != ' ' && rest.front() != ',') continue;
    rest = trimmed(rest, " ,");
    for (const std::string_view tail : {"of the picture", "of the image", "of the photo"}) {
      if (rest.starts_with(tail)) rest = trimmed(rest.substr(tail.size()), " ,");
    }
    for (const std::string_view verb : {"is ", "are "}) {
      if (rest.starts_with(verb)) rest.remove_prefix(verb.size());
    }
    text = rest;
    return place;
  }
  return "";
}

// Words that no plain name of a thing holds: with one of them the text says more than that
// something is there.
const std::set<std::string, std::less<>>& words_of_sentences() {
  static const std::set<std::string, std::less<>> words = {
      "is",      "are",     "was",     "were",    "be",      "been",    "has",    "have",
      "had",     "can",     "could",   "will",    "would",   "may",     "might",  "do",
      "does",    "did",     "on",      "in",      "at",      "under",   "near",   "by",
      "to",      "from",    "behind",  "beside",  "next",    "above",   "below",  "over",
      "between", "around",  "inside",  "outside", "that",    "which",   "who",    "it",
      "its",     "he",      "she",     "they",    "his",     "her",     "their",  "this",
      "these",   "those",   "there",   "here",    "not",     "no",      "never",  "without",
      "none",    "nothing", "nobody",  "very",    "sits",    "sitting", "stands", "standing",
      "lies",    "lying",   "wears",   "wearing", "holds",   "holding", "looks",  "looking",
      "walks",   "walking", "runs",    "running", "rides",   "riding",  "eats",   "eating",
      "plays",   "playing", "flies",   "flying",  "says",    "saying",  "reads",  "shows",
      "showing", "seems",   "because", "while",   "when",    "where",   "if",     "but",
      "or",      "than",    "as",      "only",    "i",       "you",     "we",     "what",
      "how",     "why",     "yes",     "maybe",   "perhaps", "probably"};
  return words;
}

struct Thing {
  std::string name;       // singular
  std::string many;       // "two cats", "several cats" as written; empty for one
  bool counted = false;   // `many` says how many
  bool definite = false;  // "the cat"
  bool has_article = false;
  std::string place;
};

bool is_number(std::string_view word) {
  static const std::set<std::string, std::less<>> words = {"two",
                                                           "three",
                                                           "four",
                                                           "five",
                                                           "six",
                                                           "seven",
                                                           "eight",
                                                           "nine",
                                                           "ten",
                                                           "eleven",
                                                           "twelve",
                                                           "thirteen",
                                                           "fourteen",
                                                           "fifteen",
                                                           "sixteen",
                                                           "seventeen",
                                                           "eighteen",
                                                           "nineteen",
                                                           "twenty"};
  return words.count(word) != 0 ||
         (word != "1" && !word.empty() && std::all_of(word.begin(), word.end(), is_digit));
}

bool is_vague_number(std::string_view word) {
  return word == "some" || word == "several" || word == "many" || word == "few" || word == "both";
}

std::optional<Thing> read_thing(std::string_view text) {
  Thing thing;
  thing.place = take_last_place(text);
  std::vector<std::string> words = words_of(trimmed(text, " ,:"));
  if (words.empty() || words.size() > 6) return std::nullopt;
  const std::string first = words.front();
  const bool vague = is_vague_number(first);
  thing.counted = is_number(first);
  thing.definite = first == "the";
  const bool single = first == "a" || first == "an" || first == "one" || first == "1" ||
                      first == "another" || thing.definite;
  thing.has_article = vague || thing.counted || single;
  if (thing.has_article) words.erase(words.begin());
  if (words.empty()) return std::nullopt;
  for (const std::string& word : words) {
    // A second article means that two names run into each other: not a name one can ask for.
    if (words_of_sentences().count(word) != 0 || !says_something(word) || word == "a" ||
        word == "an" || word == "the") {
      return std::nullopt;
    }
  }
  std::string name = fmt::format("{}", fmt::join(words, " "));
  if (vague || thing.counted) {
    thing.many = first + " " + name;
    name = singular_of(name);
  }
  thing.name = std::move(name);
  return thing;
}

// The parts of a list: "a cat, a dog and a bus with a hat" -> 4.
std::vector<std::string_view> list_items(std::string_view text) {
  std::vector<std::string_view> items;
  const auto joint_at = [&](std::size_t place) -> std::size_t {
    for (const std::string_view joint :
         {", and ", " and ", " as well as ", " together with ", " along with ", ", "}) {
      if (text.substr(place).starts_with(joint)) return joint.size();
    }
    for (const std::string_view joint : {" with a ", " with an ", " next to a ", " next to an "}) {
      // The article stays with the next item.
      if (text.substr(place).starts_with(joint)) return joint.rfind(" a") + 1;
    }
    return 0;
  };
  std::size_t begin = 0;
  for (std::size_t place = 0; place < text.size();) {
    const std::size_t joint = joint_at(place);
    if (joint == 0) {
      ++place;
      continue;
    }
    items.push_back(text.substr(begin, place - begin));
    begin = place += joint;
  }
  items.push_back(text.substr(begin));
  return items;
}

// Object, place and number are claims of their own: a right object in a wrong place is half right.
void add_thing_claims(const Thing& thing, std::vector<Claim>& claims) {
  const auto add = [&](const char* verb, const std::string& what, const std::string& place) {
    const std::string fact = fmt::format("there {} {}", verb, what);
    claims.push_back(
        {place.empty() ? fact : fmt::format("{} {}", fact, place),
         fmt::format("{} there {} {}?", verb, what, place.empty() ? "in the picture" : place)});
  };
  const std::string one = article_of(thing.name) + " " + thing.name;
  add("is", one, "");
  if (!thing.place.empty() && thing.definite) {
    claims.push_back({fmt::format("the {} is {}", thing.name, thing.place),
                      fmt::format("is the {} {}?", thing.name, thing.place)});
  } else if (!thing.place.empty()) {
    add("is", one, thing.place);
  }
  if (thing.counted) add("are", thing.many, thing.place);
}

// The bare thing, and what its name and `said` say of it.
void add_described_claims(Thing thing, const Attributes& said, std::vector<Claim>& claims) {
  Attributes attributes = take_attributes(thing.name);
  attributes.insert(attributes.end(), said.begin(), said.end());
  std::string called = thing.name;
  if (!thing.many.empty()) {
    const std::size_t space = thing.many.find(' ');
    called = thing.many.substr(space + 1);
    take_attributes(called);
    thing.many = thing.many.substr(0, space + 1) + called;
  }
  const char* verb = called == thing.name ? "is" : "are";
  add_thing_claims(thing, claims);
  for (const std::string& attribute : attributes) {
    claims.push_back({fmt::format("the {} {} {}", called, verb, attribute), fmt::format("{} the {} {}?", verb, called, attribute)});
  }
}

// "the cat is on the left": a thing and where it is.
std::optional<Thing> read_placed_subject(std::string_view text) {
  const std::string place = take_last_place(text);
  if (place.empty()) return std::nullopt;
  for (const std::string_view verb : {" is", " are"}) {
    if (!text.ends_with(verb)) continue;
    std::optional<Thing> thing = read_thing(text.substr(0, text.size() - verb.size()));
    if (thing && !thing->has_article) return std::nullopt;
    if (thing) thing->place = place;
    return thing;
  }
  return std::nullopt;
}

// "The sign says STOP": what is written keeps its case.
std::optional<Claim> read_writing(const std::string& sentence, const std::string& lower) {
  const std::size_t verb = lower.find(" says ");
  if (!lower.starts_with("the ") || verb == std::string::npos) return std::nullopt;
  const std::optional<Thing> thing = read_thing(std::string_view(lower).substr(0, verb));
  if (!thing || !thing->place.empty()) return std::nullopt;
  const std::string_view writing = trimmed(std::string_view(sentence).substr(verb + 6));
  return Claim{sentence, fmt::format("does the {} say {}?", thing->name, writing)};
}

// Takes "can be seen in the picture" or "are visible on the left" off the end: what is said is that something is there.
bool take_seen(std::string_view& text, std::string& place) {
  std::string_view rest = text;
  const std::string where = take_last_place(rest);
  for (const std::string_view tail : {" can be seen", " is visible", " are visible", " can be found", " is shown", " are shown"}) {
    if (!rest.ends_with(tail)) continue;
    text = trimmed(rest.substr(0, rest.size() - tail.size()), " ,");
    place = where;
    return true;
  }
  return false;
}

// The things that a sentence says are there, or nothing when it is no mere list of things.
std::optional<std::vector<Thing>> read_things(std::string_view sentence) {
  std::string seen_at;
  const bool seen = take_seen(sentence, seen_at);
  Remainder rest = without_openings(sentence);
  std::string place = take_first_place(rest.text);
  if (!place.empty()) {
    const bool announced = rest.announced;
    rest = without_openings(rest.text);
    rest.announced |= announced;
  }
  rest.announced |= seen;
  if (place.empty()) place = seen_at;
  if (const auto subject = read_placed_subject(rest.text)) return std::vector<Thing>{*subject};
  std::vector<Thing> things;
  bool all_have_articles = true;
  bool all_short = true;
  const std::vector<std::string_view> items = list_items(rest.text);
  for (const std::string_view item : items) {
    std::string name(without_openings(item).text);
    // "Stands can be seen": no verb, but things of which one is asked for.
    if (seen && name.find(' ') == std::string::npos) name = singular_of(name);
    std::optional<Thing> thing = read_thing(name);
    if (!thing) return std::nullopt;
    if (thing->place.empty()) thing->place = place;
    if (seen && !thing->has_article) thing->name = singular_of(thing->name);
    all_have_articles &= thing->has_article;
    all_short &= words_of(thing->name).size() <= 2;
    things.push_back(std::move(*thing));
  }
  // Bare words are things after "there is", and in a list such as "cat, dog"; "cat sleeps" is a
  // sentence.
  const bool is_list = all_have_articles || rest.announced || (items.size() > 1 && all_short);
  return is_list ? std::optional(things) : std::nullopt;
}

std::optional<std::vector<Claim>> claims_in_english(const std::string& sentence) {
  const std::string lower = lower_ascii(sentence);
  if (const auto writing = read_writing(sentence, lower)) return std::vector<Claim>{*writing};
  const auto things = read_things(trimmed(lower, " ,:\"'()"));
  if (!things) return std::nullopt;
  std::vector<Claim> claims;
  for (const Thing& thing : *things) add_thing_claims(thing, claims);
  return claims;
}

// "the balls are red": a thing and what it is like.
std::optional<std::vector<Claim>> read_predicate(std::string_view text) {
  for (const std::string_view verb : {" is ", " are "}) {
    const std::size_t at = text.find(verb);
    if (at == std::string_view::npos) continue;
    const Attributes said = read_attributes(trimmed(without_picture(text.substr(at + verb.size())), " ,."));
    std::optional<Thing> thing = read_thing(without_openings(text.substr(0, at)).text);
    if (said.empty() || !thing || !thing->has_article || !thing->place.empty()) return std::nullopt;
    if (verb == " are " && thing->many.empty()) {
      thing->many = "some " + thing->name;
      thing->name = singular_of(thing->name);
    }
    std::vector<Claim> claims;
    add_described_claims(*thing, said, claims);
    return claims;
  }
  return std::nullopt;
}

Claim whole_claim(const std::string& sentence) {
  return {sentence, fmt::format("is it true that {}?", trimmed(lower_ascii(sentence), " ,:"))};
}

// Nothing when no part of the sentence says more than the sentence itself.
std::optional<std::vector<Claim>> attributes_in_english(const std::string& sentence) {
  const std::vector<std::string> clauses = clauses_of(sentence);
  std::vector<Claim> claims;
  bool understood = clauses.size() > 1;
  for (const std::string& clause : clauses) {
    const std::string lower = lower_ascii(clause);
    const std::string_view text = trimmed(lower, " ,:\"'()");
    if (const auto writing = read_writing(clause, lower)) {
      claims.push_back(*writing);
    } else if (const auto predicate = read_predicate(text)) {
      claims.insert(claims.end(), predicate->begin(), predicate->end());
    } else if (const auto things = read_things(text)) {
      for (const Thing& thing : *things) add_described_claims(thing, {}, claims);
    } else {
      claims.push_back(whole_claim(clause));
      continue;
    }
    understood = true;
  }
  return understood ? std::optional(claims) : std::nullopt;
}

}  // namespace

const std::map<std::string, std::string>& irregular_plurals() {
  static const std::map<std::string, std::string> irregular = {
      {"men", "man"},       {"women", "woman"},     {"children", "child"},
      {"people", "person"}, {"mice", "mouse"},      {"geese", "goose"},
      {"teeth", "tooth"},   {"feet", "foot"},       {"wolves", "wolf"},
      {"leaves", "leaf"},   {"knives", "knife"},    {"loaves", "loaf"},
      {"shelves", "shelf"}, {"scarves", "scarf"},   {"shoes", "shoe"},
      {"toes", "toe"},      {"canoes", "canoe"},    {"cookies", "cookie"},
      {"ties", "tie"},      {"pies", "pie"},        {"movies", "movie"},
      {"cacti", "cactus"},  {"glasses", "glasses"}, {"scissors", "scissors"}};
  return irregular;
}

std::string singular_of(const std::string& name) {
  const std::size_t space = name.rfind(' ');
  const std::string before = space == std::string::npos ? "" : name.substr(0, space + 1);
  const std::string word = name.substr(before.size());
  const auto cut = [&](std::size_t letters, const char* ending) {
    return before + word.substr(0, word.size() - letters) + ending;
  };
  if (const auto found = irregular_plurals().find(word); found != irregular_plurals().end())
    return before + found->second;
  if (word.ends_with("men") && word.size() > 4) return cut(3, "man");  // snowmen
  if (!word.ends_with("s") || word.ends_with("ss") || word.ends_with("us") || word.size() < 3)
    return name;
  if (word.ends_with("ies")) return cut(3, "y");
  for (const char* ending : {"sses", "shes", "ches", "xes", "zes", "oes"}) {
    if (word.ends_with(ending)) return cut(2, "");
  }
  // buses, octopuses; but houses.
  if (word.ends_with("uses") && !word.ends_with("ouses")) return cut(2, "");
  return cut(1, "");
}

std::vector<Claim> split_claims(std::string_view answer, const std::string& language, ClaimDetail detail) {
  const std::vector<std::string> sentences = split_sentences(answer);
  std::vector<std::optional<std::vector<Claim>>> read;
  const auto read_by = [&](const auto& reader) {
    read.clear();
    for (const std::string& sentence : sentences) read.push_back(reader(sentence));
    return static_cast<std::size_t>(std::count_if(read.begin(), read.end(), [](const auto& claims) { return claims.has_value(); }));
  };
  const std::size_t in_english = language.empty() || language == "en" ? read_by(claims_in_english) : 0;
  std::string spoken = language;
  if (language.empty()) {
    // English takes "a sinistra" for a thing with an article; no English sentence fits the patterns of another language.
    const LanguageGuess guess = guess_language(sentences);
    if (guess.understood > 0 && guess.understood >= in_english) spoken = guess.language;
  }
  if (!spoken.empty() && spoken != "en")
    read_by([&](const std::string& sentence) { return claims_in(spoken, sentence); });

  const bool is_english = spoken.empty() || spoken == "en";
  if (is_english && detail == ClaimDetail::kAttributes) read_by(attributes_in_english);

  std::vector<Claim> claims;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    if (read[i]) claims.insert(claims.end(), read[i]->begin(), read[i]->end());
    else claims.push_back(whole_claim(sentences[i]));
  }
  std::vector<Claim> distinct;
  for (Claim& claim : claims) {
    const bool known = std::any_of(distinct.begin(), distinct.end(), [&](const Claim& other) {
      return other.question == claim.question;
    });
    if (!known) distinct.push_back(std::move(claim));
  }
  return distinct;
}

}  // namespace pocketvlm
