#include "rlaif/splitter.h"

#include <fmt/format.h>

#include <algorithm>

#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

// "- ", "* ", "3. " at the start of a line of a list; empty when the line is none.
std::string_view list_item(std::string_view line) {
  line = trimmed(line);
  for (const std::string_view mark : {"- ", "* ", "\xE2\x80\xA2 "}) {
    if (line.starts_with(mark)) return trimmed(line.substr(mark.size()));
  }
  std::size_t digits = 0;
  while (digits < line.size() && line[digits] >= '0' && line[digits] <= '9') ++digits;
  if (digits > 0 && digits + 1 < line.size() && (line[digits] == '.' || line[digits] == ')') &&
      line[digits + 1] == ' ') {
    return trimmed(line.substr(digits + 1));
  }
  return {};
}

}  // namespace

std::vector<SplitResult> RuleSplitter::split(const std::vector<SplitTask>& tasks) {
  std::vector<SplitResult> results;
  for (const SplitTask& task : tasks) results.push_back({split_claims(task.answer, task.language), ""});
  return results;
}

std::vector<SplitResult> WholeSplitter::split(const std::vector<SplitTask>& tasks) {
  std::vector<SplitResult> results;
  for (const SplitTask& task : tasks) {
    SplitResult result;
    const std::string text(trimmed(task.answer));
    if (says_something(text))
      result.claims.push_back({text, fmt::format("is it true that {}?", trimmed(text, " \n.!"))});
    results.push_back(std::move(result));
  }
  return results;
}

std::vector<SplitResult> ServerSplitter::split(const std::vector<SplitTask>& tasks) {
  std::vector<ChatQuestion> questions;
  for (const SplitTask& task : tasks) {
    ChatQuestion question;
    question.text = split_request(task);
    question.max_tokens = kSplitTokens;
    questions.push_back(std::move(question));
  }
  std::vector<SplitResult> results;
  for (const ChatReply& reply : client_.ask(questions)) {
    if (reply.too_long) results.push_back({{}, "too long for the splitter"});
    else if (!reply.refused.empty()) results.push_back({{}, "refused by the server: " + reply.refused});
    else results.push_back(reply.cut ? cut_split() : read_split(reply.text));
  }
  return results;
}

std::string split_request(const SplitTask& task) {
  return fmt::format(
      "Take this answer about a picture apart. Write each fact that it states about the picture in a line of its own, as a whole "
      "sentence that can be understood alone, then two bars, then a yes/no question that asks whether the fact holds, like this:\n"
      "- There is a dog on the sofa. || Is there a dog on the sofa?\n"
      "Keep negations. Leave out opinions and greetings, and add nothing of your own. If the answer states no fact, write NONE.\n\n"
      "Question: {}\nAnswer: {}",
      task.question,
      task.answer);
}

SplitResult cut_split() { return {{}, "the splitter's output was cut at its limit of tokens"}; }

SplitResult read_split(const std::string& output) {
  SplitResult result;
  std::string_view rest = output;
  while (!rest.empty()) {
    const std::size_t feed = rest.find('\n');
    const std::string_view item = list_item(rest.substr(0, feed));
    rest = feed == std::string_view::npos ? std::string_view{} : rest.substr(feed + 1);
    const std::size_t bars = item.find("||");
    const std::string_view fact = trimmed(item.substr(0, bars));
    if (!says_something(fact)) continue;
    std::string question(bars == std::string_view::npos ? "" : trimmed(item.substr(bars + 2)));
    if (!says_something(question)) question = fmt::format("is it true that {}?", trimmed(fact, " .!"));
    const bool known = std::any_of(result.claims.begin(), result.claims.end(), [&](const Claim& claim) {
      return claim.question == question;
    });
    if (!known) result.claims.push_back({std::string(fact), std::move(question)});
  }
  if (result.claims.empty() && trimmed(output, " \t\r\n.*-") != "NONE")
    result.problem = "no facts in the splitter's output";
  return result;
}

std::unique_ptr<Splitter> make_light_splitter(const RlaifConfig& config) {
  if (config.splitter == "rules") return std::make_unique<RuleSplitter>();
  if (config.splitter == "whole") return std::make_unique<WholeSplitter>();
  if (is_server(config.splitter))
    return std::make_unique<ServerSplitter>(config.splitter, config.splitter_server);
  return nullptr;
}

}  // namespace pocketvlm
