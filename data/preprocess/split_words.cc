#include "data/preprocess/split_words.h"

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "data/preprocess/unicode_classes.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

enum class Class : std::uint8_t { kLetter, kNumber, kSpace, kOther };

struct Character {
  std::uint32_t code_point;
  std::size_t begin;  // in bytes
  Class kind;
};

Class class_of(std::uint32_t code_point) {
  if (is_letter(code_point)) return Class::kLetter;
  if (is_number(code_point)) return Class::kNumber;
  if (is_whitespace(code_point)) return Class::kSpace;
  return Class::kOther;
}

bool is_line_end(std::uint32_t c) { return c == '\r' || c == '\n'; }

/// The characters [begin, end) of a text, cut one word at a time. Each function returns where the
/// word that starts at `at` ends, or `at` when its alternative of the expression does not match.
class Splitter {
 public:
  Splitter(const std::vector<Character>& characters, std::size_t end)
      : characters_(characters), end_(end) {}

  std::size_t llama3_word(std::size_t at, std::size_t numbers) const {
    if (const std::size_t stop = contraction(at, true); stop > at) return stop;
    if (is(at, Class::kLetter)) return run(at, Class::kLetter);
    if (!is(at, Class::kNumber) && !is_line_end(code(at)) && is(at + 1, Class::kLetter)) {
      return run(at + 1, Class::kLetter);
    }
    if (is(at, Class::kNumber)) return std::min(run(at, Class::kNumber), at + numbers);
    if (std::size_t stop = spaced_run(at, Class::kOther); stop > at) {
      while (stop < end_ && is_line_end(code(stop))) ++stop;
      return stop;
    }
    const std::size_t stop = run(at, Class::kSpace);
    for (std::size_t last = stop; last > at; --last) {
      if (is_line_end(code(last - 1))) return last;  // \s*[\r\n]+ ends at the last line end
    }
    return space(at);
  }

  std::size_t gpt2_word(std::size_t at) const {
    if (const std::size_t stop = contraction(at, false); stop > at) return stop;
    for (const Class kind : {Class::kLetter, Class::kNumber, Class::kOther}) {
      if (const std::size_t stop = spaced_run(at, kind); stop > at) return stop;
    }
    return space(at);
  }

 private:
  std::uint32_t code(std::size_t at) const { return characters_[at].code_point; }
  bool is(std::size_t at, Class kind) const { return at < end_ && characters_[at].kind == kind; }
  std::size_t run(std::size_t at, Class kind) const {
    while (is(at, kind)) ++at;
    return at;
  }
  /// ` ?` and a run of one class.
  std::size_t spaced_run(std::size_t at, Class kind) const {
    const std::size_t first = code(at) == ' ' ? at + 1 : at;
    return is(first, kind) ? run(first, kind) : at;
  }
  /// \s+(?!\S)|\s+ : the last space before a word belongs to the word.
  std::size_t space(std::size_t at) const {
    const std::size_t stop = run(at, Class::kSpace);
    return stop == end_ || stop == at + 1 ? stop : stop - 1;
  }
  std::size_t contraction(std::size_t at, bool ignore_case) const {
    if (code(at) != '\'') return at;
    const auto letter = [&](std::size_t i) -> std::uint32_t {
      if (i >= end_) return 0;
      const std::uint32_t c = code(i);
      if (!ignore_case) return c;
      if (c == 0x17F) return 's';  // the long s folds to s
      return c >= 'A' && c <= 'Z' ? c + 32 : c;
    };
    const std::uint32_t first = letter(at + 1);
    const std::uint32_t second = letter(at + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                     (first == 'l' && second == 'l');
    return two ? at + 3 : at;
  }

  const std::vector<Character>& characters_;
  std::size_t end_;
};

}  // namespace

SplitRule split_rule(const std::string& name, const std::string& where) {
  if (name == "llama-bpe") return SplitRule::kLlama3;
  if (name == "qwen2") return SplitRule::kQwen2;
  if (name == "smollm") return SplitRule::kSmollm;
  fail("{}: the pre-tokenizer \"{}\" is not known; known are llama-bpe, qwen2 and smollm",
       where,
       name);
}

std::vector<std::string_view> split_words(std::string_view text, SplitRule rule) {
  std::vector<Character> characters;
  characters.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char character = read_utf8(text.substr(at));
    characters.push_back({character.code_point, at, class_of(character.code_point)});
    at += static_cast<std::size_t>(character.size);
  }
  const auto begin_of = [&](std::size_t i) {
    return i < characters.size() ? characters[i].begin : text.size();
  };

  std::vector<std::string_view> words;
  for (std::size_t at = 0; at < characters.size();) {
    std::size_t stop = at + 1;
    if (rule == SplitRule::kSmollm) {
      // Numbers are cut out first; the rule of GPT-2 then sees the stretch between them alone.
      std::size_t segment = at;
      while (segment < characters.size() && characters[segment].kind != Class::kNumber) ++segment;
      if (segment > at) {
        const Splitter splitter(characters, segment);
        while (at < segment) {
          stop = splitter.gpt2_word(at);
          words.push_back(text.substr(begin_of(at), begin_of(stop) - begin_of(at)));
          at = stop;
        }
        continue;
      }
    } else {
      const Splitter splitter(characters, characters.size());
      stop = splitter.llama3_word(at, rule == SplitRule::kLlama3 ? 3 : 1);
    }
    words.push_back(text.substr(begin_of(at), begin_of(stop) - begin_of(at)));
    at = stop;
  }
  return words;
}

}  // namespace pocketvlm
