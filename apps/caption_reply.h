#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

struct QuestionAndAnswer {
  std::string question, answer;
  bool operator==(const QuestionAndAnswer&) const = default;
};

/// What a model made of a caption.
struct CaptionReply {
  std::vector<QuestionAndAnswer> pairs;
  std::string problem;  // why the reply is of no use, in one of a few fixed wordings; empty: pairs are good
};

inline constexpr std::size_t kMostPairs = 10;
inline constexpr std::size_t kLongestQuestion = 500;  // bytes
inline constexpr std::size_t kLongestAnswer = 2000;

/// Reads the reply to a prompt that was made from `prompt_template`: a JSON list of {"question", "answer"} (or an object that
/// holds one), fenced or not, or lines that begin with "Q:" and "A:" ("Question:", numbered, bold ones, too), of which each goes
/// on until the next one begins. Refused are replies without a pair, with more than kMostPairs, with an empty, too long or doubled
/// part, with a picture mark or broken UTF-8 in it, and those that repeat a piece of the template.
CaptionReply read_caption_reply(const std::string& reply, const std::string& prompt_template);

/// The prompt: the template with the caption at "{caption}".
std::string caption_prompt(const std::string& prompt_template, const std::string& caption);

/// Asks for one to three pairs.
extern const char* const kCaptionTemplate;

}  // namespace pocketvlm
