#include "rlaif/language_claims.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "data/scenes/cldr_names.h"
#include "data/scenes/language_patterns.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

/// What reading a language needs beside the patterns it is written with: ways in which people, and models that have read
/// them, say the same. "{0}" a list, "{1}" a place.
struct ReadingWords {
  const char* sign;          // the thing that words stand on
  const char* sign_says;     // "{0}": the words
  std::vector<const char*> frames;    // of lists whose every item has an article, or a number word
  std::vector<const char*> articles;  // with the space behind them, where the language puts one
  std::vector<const char*> not_in_names;  // with one of them the text says more than that something is there
};

const std::map<std::string, ReadingWords>& reading_words() {
  static const std::map<std::string, ReadingWords> table = {
      {"zh",
       {"牌子", "牌子上写着{0}", {"图片里有{0}", "图片中有{0}", "照片里有{0}", "照片中有{0}", "画面中有{0}", "图中有{0}", "{1}有{0}"},
        {"一只", "一个", "一辆", "一棵", "一头", "一条", "一匹", "一架", "一艘", "一本", "一把", "一朵", "一颗", "一块", "一座", "一张", "一台"},
        {"的", "在", "是", "了", "着", "没", "不", "有", "，"}}},
      {"ja", {"看板", "看板には{0}と書いてあります", {}, {}, {}}},
      {"de",
       {"Schild", "Auf dem Schild steht {0}", {"Auf dem Bild ist {0}", "Auf dem Bild sind {0}", "Das Bild zeigt {0}", "{1} ist {0}"},
        {"ein ", "eine ", "einen "}, {}}},
      {"fr",
       {"panneau", "Le panneau dit {0}", {"Sur l'image, il y a {0}", "Il y a {0}", "L'image montre {0}", "{1}, il y a {0}"},
        {"un ", "une "}, {}}},
      {"es",
       {"cartel", "El cartel dice {0}", {"En la imagen hay {0}", "La imagen muestra {0}", "{1} hay {0}"}, {"un ", "una "}, {}}},
      {"ru", {"вывеска", "На вывеске написано {0}", {}, {}, {}}},
      {"pt",
       {"placa", "A placa diz {0}", {"Na imagem há {0}", "A imagem mostra {0}", "{1} há {0}"}, {"um ", "uma "}, {}}},
      {"ko", {"표지판", "표지판에 쓰여 있습니다: {0}", {}, {}, {}}},
      {"it",
       {"cartello", "Il cartello dice {0}", {"Nell'immagine c'è {0}", "L'immagine mostra {0}", "{1} c'è {0}"},
        {"un ", "una ", "uno ", "un'"}, {}}},
      {"ar", {"لافتة", "كتب على اللافتة {0}", {}, {}, {}}},
      {"hi", {"बोर्ड", "बोर्ड पर {0} लिखा है", {}, {}, {}}},
  };
  return table;
}

/// What stands before and behind "{0}" in a filled pattern.
struct Frame {
  std::string before, after;
};

constexpr std::string_view kHole = "\x01";

std::string_view without_end(std::string_view text) {
  for (const std::string_view mark : {".", "\xE3\x80\x82", "\xE0\xA5\xA4"}) {
    if (text.ends_with(mark)) text.remove_suffix(mark.size());
  }
  return text;
}

std::string filled(const char* pattern, std::string_view name, std::string_view detail = "") {
  return fmt::format(fmt::runtime(pattern), name, detail);
}

Frame frame_of(const char* pattern, std::string_view detail = "") {
  const std::string text = filled(pattern, kHole, detail);
  const std::size_t hole = text.find(kHole);
  return {text.substr(0, hole), std::string(without_end(std::string_view(text).substr(hole + kHole.size())))};
}

// What `text` holds in the hole of `frame`, whatever the case of ASCII letters around it.
std::optional<std::string_view> inside(std::string_view text, const Frame& frame) {
  const auto same = [](std::string_view a, const std::string& b) { return a == b || lower_ascii(a) == lower_ascii(b); };
  if (text.size() <= frame.before.size() + frame.after.size()) return std::nullopt;
  if (!same(text.substr(0, frame.before.size()), frame.before)) return std::nullopt;
  if (!same(text.substr(text.size() - frame.after.size()), frame.after)) return std::nullopt;
  text.remove_prefix(frame.before.size());
  text.remove_suffix(frame.after.size());
  return trimmed(text);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Thing {
  std::string name;
  int count = 1;
  bool has_article = false;
};

struct Language {
  const LanguagePatterns& patterns;
  const ReadingWords& reading;
  std::vector<std::string> hard_names;  // of the world's classes, longest first: those that hold words which part lists
};

// Names such as "Globus mit Europa und Afrika" cannot be told from lists without knowing them.
std::vector<std::string> hard_names(const std::string& code, const LanguagePatterns& patterns, const ReadingWords& reading) {
  std::vector<std::string> all;
  try {
    all = class_names_in(code, curated_classes("emoji"), "splitter");
  } catch (const Error&) {
    return {};  // CLDR's names are not installed: such names come apart
  }
  std::vector<std::string_view> parting = {patterns.separator, patterns.last_separator};
  parting.insert(parting.end(), reading.not_in_names.begin(), reading.not_in_names.end());
  std::erase_if(all, [&](const std::string& name) {
    return std::none_of(parting.begin(), parting.end(), [&](std::string_view part) { return name.find(part) != name.npos; });
  });
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return all;
}

// A hard name while its sentence is read: its number in letters between two marks.
std::string mark_of(std::size_t number) {
  return fmt::format("\x02{}{}\x02", static_cast<char>('a' + number / 26 % 26), static_cast<char>('a' + number % 26));
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

std::string with_marks(std::string text, const Language& language) {
  for (std::size_t i = 0; i < language.hard_names.size(); ++i) replace_all(text, language.hard_names[i], mark_of(i));
  return text;
}

std::string without_marks(std::string text, const Language& language) {
  for (std::size_t i = 0; i < language.hard_names.size(); ++i) replace_all(text, mark_of(i), language.hard_names[i]);
  return text;
}

const Language* language_of(const std::string& code) {
  static const std::map<std::string, Language> languages = [] {
    std::map<std::string, Language> all;
    for (const auto& [name, patterns] : language_patterns()) {
      const auto reading = reading_words().find(name);
      if (reading != reading_words().end()) all.emplace(name, Language{patterns, reading->second, hard_names(name, patterns, reading->second)});
    }
    return all;
  }();
  const auto found = languages.find(code);
  return found == languages.end() ? nullptr : &found->second;
}

bool is_name(std::string_view text, std::ptrdiff_t most_spaces) {
  return says_something(text) && text.find_first_of("():;,.!?\"0123456789") == std::string_view::npos &&
         std::count(text.begin(), text.end(), ' ') <= most_spaces;
}

// "cat", "a cat", or "cat (2)" as the language writes it.
std::optional<Thing> read_thing(std::string_view item, const Language& language) {
  Thing thing;
  item = trimmed(item, " ,");
  const auto digit = std::find_if(item.begin(), item.end(), is_digit);
  if (digit != item.end()) {
    const std::string digits(digit, std::find_if_not(digit, item.end(), is_digit));
    const auto name = inside(item, frame_of(language.patterns.counted, digits));
    if (!name || digits.size() > 3) return std::nullopt;
    thing.count = std::stoi(digits);
    item = *name;
    thing.has_article = true;
  } else {
    for (const char* article : language.reading.articles) {
      if (!item.starts_with(article)) continue;
      item.remove_prefix(std::string_view(article).size());
      thing.has_article = true;
      break;
    }
  }
  if (!is_name(item, 5)) return std::nullopt;
  for (const char* word : language.reading.not_in_names) {
    if (item.find(word) != std::string_view::npos) return std::nullopt;
  }
  thing.name = item;
  return thing;
}

std::optional<std::vector<Thing>> read_list(std::string_view text, const Language& language, bool needs_articles) {
  std::vector<Thing> things;
  while (true) {
    std::size_t end = std::string_view::npos;
    std::size_t size = 0;
    for (const std::string_view joint : {language.patterns.separator, language.patterns.last_separator}) {
      const std::size_t place = text.find(joint);
      if (place >= end) continue;
      end = place;
      size = joint.size();
    }
    const std::optional<Thing> thing = read_thing(text.substr(0, end), language);
    // Between words in the open one bare word is a name; more of them may be a sentence.
    if (!thing || (needs_articles && (!thing->has_article || !is_name(thing->name, 0)))) return std::nullopt;
    things.push_back(*thing);
    if (end == std::string_view::npos) return things;
    text.remove_prefix(end + size);
  }
}

// A sentence's things and the cell they are in; -1: anywhere.
struct Listed {
  std::vector<Thing> things;
  int cell = -1;
};

std::optional<Listed> read_listed(std::string_view sentence, const Language& language) {
  const auto try_frame = [&](const char* pattern, int cell, bool needs_articles) -> std::optional<Listed> {
    const char* place = cell < 0 ? "" : language.patterns.positions[static_cast<std::size_t>(cell)];
    const auto list = inside(sentence, frame_of(pattern, place));
    const auto things = list ? read_list(*list, language, needs_articles) : std::nullopt;
    return things ? std::optional(Listed{*things, cell}) : std::nullopt;
  };
  const auto try_places = [&](const char* pattern, bool needs_articles) -> std::optional<Listed> {
    if (std::string_view(pattern).find("{1}") == std::string_view::npos) return try_frame(pattern, -1, needs_articles);
    for (int cell = 0; cell < 9; ++cell) {
      if (auto listed = try_frame(pattern, cell, needs_articles)) return listed;
    }
    return std::nullopt;
  };
  if (auto listed = try_places(language.patterns.caption, false)) return listed;
  if (auto listed = try_places(language.patterns.detailed_item, false)) return listed;
  for (const char* pattern : language.reading.frames) {
    if (auto listed = try_places(pattern, true)) return listed;
  }
  return std::nullopt;
}

// Object, place and number are claims of their own, as in English.
void add_claims(const Thing& thing, int cell, const Language& language, std::vector<Claim>& claims) {
  const LanguagePatterns& words = language.patterns;
  const std::string count = std::to_string(thing.count);
  const std::string counted = thing.count > 1 ? filled(words.counted, thing.name, count) : thing.name;
  const char* place = cell < 0 ? "" : words.positions[static_cast<std::size_t>(cell)];
  const auto add = [&](const std::string& fact, const std::string& question) {
    claims.push_back({std::string(without_end(fact)), question});
  };
  add(filled(words.caption, thing.name), filled(words.exists, thing.name));
  if (cell >= 0) {
    const bool sign = thing.name == language.reading.sign;
    add(filled(words.detailed_item, thing.name, place),
        sign ? filled(words.sign_at, "", place) : filled(words.exists_at, thing.name, place));
  }
  if (thing.count < 2) return;
  if (cell >= 0) add(filled(words.detailed_item, counted, place), filled(words.exists_at, counted, place));
  else add(filled(words.caption, counted), filled(words.exact_count, thing.name, count));
}

std::optional<PatternQuestion> read_question(const std::string& question, const Language& language) {
  const LanguagePatterns& words = language.patterns;
  PatternQuestion read;
  if (const auto writing = inside(question, frame_of(words.sign_says))) {
    read.writing = *writing;
    return read;
  }
  for (int cell = 0; cell < 9; ++cell) {
    const char* place = words.positions[static_cast<std::size_t>(cell)];
    read.cell = cell;
    if (question == filled(words.sign_at, "", place)) return read;
    const auto item = inside(question, frame_of(words.exists_at, place));
    const auto thing = item ? read_thing(with_marks(std::string(*item), language), language) : std::nullopt;
    if (!thing) continue;
    read.name = without_marks(thing->name, language);
    read.count = thing->count > 1 ? thing->count : 0;
    return read;
  }
  read.cell = -1;
  const auto digit = std::find_if(question.begin(), question.end(), is_digit);
  if (digit != question.end()) {
    const std::string digits(digit, std::find_if_not(digit, question.end(), is_digit));
    const auto name = inside(question, frame_of(words.exact_count, digits));
    if (!name || digits.size() > 3) return std::nullopt;
    read.name = *name;
    read.count = std::stoi(digits);
    return read;
  }
  const auto name = inside(question, frame_of(words.exists));
  if (!name) return std::nullopt;
  if (*name != language.reading.sign) read.name = *name;
  return read;
}

}  // namespace

std::optional<std::vector<Claim>> claims_in(const std::string& code, const std::string& sentence) {
  const Language* language = language_of(code);
  if (language == nullptr || sentence == without_end(language->patterns.nothing)) return std::nullopt;
  std::vector<Claim> claims;
  if (const auto writing = inside(sentence, frame_of(language->reading.sign_says))) {
    claims.push_back({sentence, filled(language->patterns.sign_says, *writing)});
    return claims;
  }
  std::optional<Listed> listed = read_listed(with_marks(sentence, *language), *language);
  if (!listed) return std::nullopt;
  for (Thing& thing : listed->things) thing.name = without_marks(thing.name, *language);
  for (const Thing& thing : listed->things) add_claims(thing, listed->cell, *language, claims);
  return claims;
}

LanguageGuess guess_language(const std::vector<std::string>& sentences) {
  LanguageGuess best;
  for (const auto& [code, patterns] : language_patterns()) {
    std::size_t understood = 0;
    for (const std::string& sentence : sentences) understood += claims_in(code, sentence) ? 1 : 0;
    if (understood > best.understood) best = {code, understood};
  }
  return best;
}

std::optional<PatternQuestion> read_pattern_question(const std::string& question) {
  for (const auto& [code, patterns] : language_patterns()) {
    const Language* language = language_of(code);
    auto read = language != nullptr ? read_question(question, *language) : std::nullopt;
    if (!read) continue;
    read->language = code;
    return read;
  }
  return std::nullopt;
}

}  // namespace pocketvlm
