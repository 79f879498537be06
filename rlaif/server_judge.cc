#include <cmath>

#include "rlaif/judge.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

// The word that a text begins with, in lower case, without quotes and marks before it.
std::string first_word(std::string_view text) {
  text = trimmed(text, " \t\r\n\"'*_`#.,:-");
  std::size_t size = 0;
  while (size < text.size() && ((text[size] >= 'a' && text[size] <= 'z') || (text[size] >= 'A' && text[size] <= 'Z')))
    ++size;
  return lower_ascii(text.substr(0, size));
}

std::string word_of(const std::string& token) { return lower_ascii(trimmed(token, " \t\r\n\xE2\x96\x81")); }

// Probabilities of tokens that begin "yes" or "no".
Verdict verdict_of_pieces(const std::vector<std::pair<std::string, double>>& tokens) {
  Verdict verdict;
  for (const auto& [token, log_prob] : tokens) {
    const std::string piece = word_of(token);
    if (piece.empty()) continue;
    if (std::string_view("yes").starts_with(piece)) verdict.p_yes += std::exp(log_prob);
    if (std::string_view("no").starts_with(piece)) verdict.p_no += std::exp(log_prob);
  }
  return verdict;
}

}  // namespace

Verdict read_verdict(const ChatReply& reply) {
  Verdict verdict;
  if (!reply.refused.empty()) {
    verdict.problem = (reply.too_long ? "too long for the judge: " : "refused by the server: ") + reply.refused;
    return verdict;
  }
  for (const auto& [token, log_prob] : reply.first_token) {
    const std::string word = word_of(token);
    if (word == "yes") verdict.p_yes += std::exp(log_prob);
    if (word == "no") verdict.p_no += std::exp(log_prob);
  }
  if (!reply.first_token.empty() && verdict.coverage() > 0) return verdict;
  const std::string word = first_word(reply.text);
  // A small vocabulary writes the words in pieces; the answer shows that these pieces begin them.
  const Verdict pieces = verdict_of_pieces(reply.first_token);
  if ((word == "yes" && pieces.p_yes > 0) || (word == "no" && pieces.p_no > 0)) return pieces;
  if (word == "yes") verdict.p_yes = 1;
  else if (word == "no") verdict.p_no = 1;
  else
    verdict.problem = "neither yes nor no: \"" + reply.text.substr(0, 80) + "\"";
  return verdict;
}

std::vector<Verdict> ServerJudge::verdicts(const Image& image,
                                           const std::vector<std::string>& questions) {
  const std::string url = image_data_url(image);
  std::vector<ChatQuestion> asked;
  for (const std::string& question : questions) {
    ChatQuestion one;
    one.text = question + suffix_;
    one.image_url = url;
    one.max_tokens = 4;  // where probabilities are not told, "Yes" may follow a quote or a space
    one.first_token = true;
    asked.push_back(std::move(one));
  }
  std::vector<Verdict> verdicts;
  for (const ChatReply& reply : client_.ask(asked)) verdicts.push_back(read_verdict(reply));
  return verdicts;
}

}  // namespace pocketvlm
