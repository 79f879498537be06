#include "rlaif/sentences.h"

#include <algorithm>
#include <array>

#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f' || c == '\v';
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::string single_spaced(std::string_view text) {
  std::string out;
  for (const char c : trimmed(text)) {
    if (!is_space(c))
      out.push_back(c);
    else if (!out.empty() && out.back() != ' ')
      out.push_back(' ');
  }
  return out;
}

// "- ", "* ", "\u2022 ", "3. ", "3) " at the start of a line.
std::string_view without_list_mark(std::string_view line) {
  line = trimmed(line);
  for (const std::string_view mark : {"- ", "* ", "+ ", "\xE2\x80\xA2"}) {
    if (line.starts_with(mark)) return trimmed(line.substr(mark.size()));
  }
  std::size_t digits = 0;
  while (digits < line.size() && is_digit(line[digits])) ++digits;
  if (digits > 0 && digits <= 3 && digits + 1 < line.size() &&
      (line[digits] == '.' || line[digits] == ')') && is_space(line[digits + 1])) {
    return trimmed(line.substr(digits + 1));
  }
  return line;
}

constexpr std::array<std::string_view, 9> kAbbreviations = {
    "mr", "mrs", "ms", "dr", "st", "vs", "e.g", "i.e", "approx"};

// The point at `place` of `line` belongs to a number ("3.5"), an abbreviation ("Mr. Smith") or
// initials ("U.S.A").
bool is_inner_point(std::string_view line, std::size_t place) {
  const bool last = place + 1 >= line.size();
  if (last) return false;
  const char next = line[place + 1];
  if (place > 0 && is_digit(line[place - 1]) && is_digit(next)) return true;
  std::size_t begin = place;
  while (begin > 0 && (is_letter(line[begin - 1]) || line[begin - 1] == '.')) --begin;
  const std::string word = lower_ascii(line.substr(begin, place - begin));
  if (word.size() == 1 && is_letter(next)) return true;
  // "no." ends a sentence unless a number follows.
  if (word == "no") return place + 2 < line.size() && is_digit(line[place + 2]);
  return std::find(kAbbreviations.begin(), kAbbreviations.end(), word) != kAbbreviations.end();
}

std::size_t sentence_end_size(std::string_view line, std::size_t place) {
  const char c = line[place];
  if (c == '!' || c == '?' || c == ';') return 1;
  if (c == '.') return is_inner_point(line, place) ? 0 : 1;
  for (const std::string_view mark :
       {"\xE3\x80\x82", "\xEF\xBC\x81", "\xEF\xBC\x9F", "\xEF\xBC\x9B", "\xE0\xA5\xA4"}) {
    if (line.substr(place).starts_with(mark)) return mark.size();
  }
  return 0;
}

}  // namespace

// Letters or digits of any script; ASCII punctuation, general punctuation and CJK punctuation say
// nothing.
bool says_something(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char character = read_utf8(text);
    const std::uint32_t code = character.code_point;
    if (code < 0x80) {
      if (is_letter(text.front()) || is_digit(text.front())) return true;
    } else if (code != 0xFFFD && code > 0xBF && !(code >= 0x2000 && code <= 0x206F) &&
               !(code >= 0x3000 && code <= 0x303F) && !(code >= 0xFF00 && code <= 0xFF0F)) {
      return true;
    }
    text.remove_prefix(static_cast<std::size_t>(character.size));
  }
  return false;
}

std::string_view trimmed(std::string_view text, std::string_view marks) {
  while (!text.empty() && marks.find(text.front()) != std::string_view::npos) text.remove_prefix(1);
  while (!text.empty() && marks.find(text.back()) != std::string_view::npos) text.remove_suffix(1);
  return text;
}

std::string lower_ascii(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    if (space != 0) words.emplace_back(text.substr(0, space));
    text = space == std::string_view::npos ? std::string_view{} : text.substr(space + 1);
  }
  return words;
}

std::vector<std::string> split_sentences(std::string_view text) {
  std::vector<std::string> sentences;
  const auto add = [&](std::string_view sentence) {
    if (says_something(sentence)) sentences.push_back(single_spaced(sentence));
  };
  while (!text.empty()) {
    const std::size_t feed = text.find('\n');
    const std::string_view line = without_list_mark(text.substr(0, feed));
    std::size_t begin = 0;
    for (std::size_t place = 0; place < line.size();) {
      const std::size_t end = sentence_end_size(line, place);
      if (end != 0) add(line.substr(begin, place - begin));
      place += end != 0 ? end : 1;
      if (end != 0) begin = place;
    }
    add(line.substr(std::min(begin, line.size())));
    text = feed == std::string_view::npos ? std::string_view{} : text.substr(feed + 1);
  }
  return sentences;
}

}  // namespace pocketvlm
