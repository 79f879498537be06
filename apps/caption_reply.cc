#include "apps/caption_reply.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "data/record_file.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

constexpr std::string_view kPlaceholder = "{caption}";
constexpr std::size_t kTellingBytes = 24;  // shorter pieces of the template may be said by chance

/// The content of a ``` fence when the reply is one.
std::string_view without_fence(std::string_view text) {
  text = trimmed(text);
  if (!text.starts_with("```")) return text;
  const std::size_t begin = text.find('\n'), end = text.rfind("```");
  if (begin == text.npos || end <= begin) return text;
  return trimmed(text.substr(begin, end - begin));
}

std::string text_at(const Json& item, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (item.contains(name) && item[name].is_string()) return std::string(trimmed(item[name].get_ref<const std::string&>()));
  }
  return "";
}

/// The list of pairs in a JSON reply; nothing when it is no JSON of the kind.
std::optional<std::vector<QuestionAndAnswer>> read_json_pairs(std::string_view text) {
  if (!text.starts_with('[') && !text.starts_with('{')) return std::nullopt;
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return std::nullopt;
  if (json.is_object()) {
    const auto list = std::find_if(json.begin(), json.end(), [](const Json& value) { return value.is_array(); });
    json = list == json.end() ? Json::array({json}) : Json(*list);
  }
  std::vector<QuestionAndAnswer> pairs;
  for (const Json& item : json) {
    if (!item.is_object()) return std::nullopt;
    pairs.push_back({text_at(item, {"question", "Question", "q", "Q"}), text_at(item, {"answer", "Answer", "a", "A"})});
  }
  return pairs;
}

/// What follows "Q:", "**Question 2:**", "3. A:" at the begin of a line; nothing when the line does not begin so.
std::optional<std::string_view> after_mark(std::string_view line, std::string_view letter, std::string_view word) {
  line = trimmed(line);
  while (!line.empty() && (std::isdigit(static_cast<unsigned char>(line.front())) != 0 || std::string_view("*-.)# ").find(line.front()) != std::string_view::npos)) {
    line.remove_prefix(1);
  }
  if (lower_ascii(line).starts_with(lower_ascii(word))) line.remove_prefix(word.size());
  else if (line.starts_with(letter)) line.remove_prefix(letter.size());
  else return std::nullopt;
  while (!line.empty() && (std::isdigit(static_cast<unsigned char>(line.front())) != 0 || line.front() == ' ' || line.front() == '*')) line.remove_prefix(1);
  if (!line.starts_with(':')) return std::nullopt;
  line.remove_prefix(1);
  while (line.starts_with('*')) line.remove_prefix(1);
  return trimmed(line);
}

std::vector<QuestionAndAnswer> read_lines(std::string_view text) {
  std::vector<QuestionAndAnswer> pairs;
  std::string* open = nullptr;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (const auto question = after_mark(line, "Q", "Question")) {
      pairs.push_back({std::string(*question), ""});
      open = &pairs.back().question;
    } else if (const auto answer = after_mark(line, "A", "Answer")) {
      // A second answer to one question, or one to none, is a pair that lacks its other part.
      if (pairs.empty() || open != &pairs.back().question) pairs.push_back({});
      pairs.back().answer = *answer;
      open = &pairs.back().answer;
    } else if (open != nullptr && !trimmed(line).empty()) {
      *open += (open->empty() ? "" : "\n") + std::string(trimmed(line));
    }
  }
  return pairs;
}

/// The template's lines that are long enough to be told from chance.
std::vector<std::string> telling_pieces(const std::string& prompt_template) {
  std::vector<std::string> pieces;
  std::string text = prompt_template;
  for (std::size_t at; (at = text.find(kPlaceholder)) != std::string::npos;) text.replace(at, kPlaceholder.size(), "\n");
  std::string_view rest = text;
  while (!rest.empty()) {
    // Sentences, for a model may repeat one of several in a line.
    const std::size_t end = std::min(rest.find_first_of("\n.:?!"), rest.size());
    const std::string_view piece = trimmed(rest.substr(0, end));
    if (piece.size() >= kTellingBytes) pieces.emplace_back(piece);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return pieces;
}

std::string problem_of(const std::vector<QuestionAndAnswer>& pairs, const std::string& prompt_template) {
  if (pairs.empty()) return "no question and answer";
  if (pairs.size() > kMostPairs) return "too many pairs";
  const std::vector<std::string> pieces = telling_pieces(prompt_template);
  for (const QuestionAndAnswer& pair : pairs) {
    if (pair.question.empty() || pair.answer.empty()) return "empty question or answer";
    if (pair.question.size() > kLongestQuestion || pair.answer.size() > kLongestAnswer) return "too long";
    if (pair.question == pair.answer) return "answer repeats the question";
    for (const std::string* part : {&pair.question, &pair.answer}) {
      if (!is_utf8(*part)) return "invalid UTF-8";
      if (part->find("<image") != std::string::npos || part->find("<video") != std::string::npos) return "picture mark";
      const bool copied = part->find(kPlaceholder) != std::string::npos ||
                          std::any_of(pieces.begin(), pieces.end(), [&](const std::string& piece) { return part->find(piece) != std::string::npos; });
      if (copied) return "copy of the instruction";
    }
  }
  return "";
}

}  // namespace

const char* const kCaptionTemplate =
    "Below is the caption of a picture; it may hold noise such as file names, advertising and tags. Write one to three questions "
    "that a person who sees the picture could ask, each with its answer. Use only what the caption says about the picture. Write "
    "each question on a line that begins with \"Q:\" and its answer on a line that begins with \"A:\", and nothing else.\n\n"
    "Caption: {caption}";

CaptionReply read_caption_reply(const std::string& reply, const std::string& prompt_template) {
  const std::string_view text = without_fence(reply);
  CaptionReply result;
  auto from_json = read_json_pairs(text);
  result.pairs = from_json ? std::move(*from_json) : read_lines(text);
  result.problem = problem_of(result.pairs, prompt_template);
  return result;
}

std::string caption_prompt(const std::string& prompt_template, const std::string& caption) {
  const std::size_t at = prompt_template.find(kPlaceholder);
  PV_CHECK(at != std::string::npos && prompt_template.find(kPlaceholder, at + 1) == std::string::npos,
           "--template: the template must hold {{caption}} once, where the caption goes");
  return prompt_template.substr(0, at) + caption + prompt_template.substr(at + kPlaceholder.size());
}

}  // namespace pocketvlm
