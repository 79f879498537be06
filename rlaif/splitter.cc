#include "rlaif/splitter.h"

#include <fmt/format.h>

#include <algorithm>

#include "rlaif/content_key.h"
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

// The words with what the names in braces stand for; what is put in is not looked through again.
std::string filled(std::string_view words, const std::vector<std::pair<std::string_view, std::string_view>>& values) {
  std::string text;
  while (!words.empty()) {
    const auto named = std::find_if(values.begin(), values.end(), [&](const auto& value) { return words.starts_with(value.first); });
    if (named == values.end()) {
      text += words.front();
      words.remove_prefix(1);
    } else {
      text += named->second;
      words.remove_prefix(named->first.size());
    }
  }
  return text;
}

}  // namespace

std::vector<SplitResult> RuleSplitter::split(const std::vector<SplitTask>& tasks) {
  std::vector<SplitResult> results;
  for (const SplitTask& task : tasks) results.push_back({split_claims(task.answer, task.language, detail_), ""});
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
  return split_by_model(prompts_, tasks, [&](const std::vector<std::string>& requests) {
    std::vector<ChatQuestion> questions;
    for (const std::string& request : requests) {
      ChatQuestion question;
      question.text = request;
      question.max_tokens = kSplitTokens;
      questions.push_back(std::move(question));
    }
    std::vector<SplitOutput> outputs;
    for (const ChatReply& reply : client_.ask(questions)) {
      if (reply.too_long) outputs.push_back({"", "too long for the splitter"});
      else if (!reply.refused.empty()) outputs.push_back({"", "refused by the server: " + reply.refused});
      else outputs.push_back(reply.cut ? cut_split() : SplitOutput{reply.text});
    }
    return outputs;
  });
}

std::string SplitPrompts::identity() const {
  return facts.empty() && questions.empty() ? "" : " asked " + content_key({facts, questions});
}

std::vector<SplitResult> split_by_model(const SplitPrompts& prompts,
                                        const std::vector<SplitTask>& tasks,
                                        const std::function<std::vector<SplitOutput>(const std::vector<std::string>&)>& ask) {
  std::vector<std::string> requests;
  for (const SplitTask& task : tasks) requests.push_back(split_request(task, prompts));
  std::vector<SplitResult> results;
  for (const SplitOutput& output : ask(requests))
    results.push_back(output.problem.empty() ? read_split(output.text) : SplitResult{{}, output.problem});
  if (!prompts.in_two_turns()) return results;

  requests.clear();
  std::vector<std::size_t> asked;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (results[i].claims.empty()) continue;
    std::string facts;
    for (const Claim& claim : results[i].claims) facts += "- " + claim.text + "\n";
    requests.push_back(filled(prompts.questions, {{"{facts}", trimmed(facts)}}));
    asked.push_back(i);
  }
  if (requests.empty()) return results;
  const std::vector<SplitOutput> outputs = ask(requests);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    SplitResult& result = results[asked[i]];
    result = outputs[i].problem.empty() ? with_questions(std::move(result), outputs[i].text) : SplitResult{{}, outputs[i].problem};
  }
  return results;
}

SplitResult with_questions(SplitResult facts, const std::string& output) {
  std::vector<std::string> questions;
  for (std::string_view rest = output; !rest.empty();) {
    const std::size_t feed = rest.find('\n');
    const std::string_view item = list_item(rest.substr(0, feed));
    if (says_something(item)) questions.emplace_back(item);
    rest = feed == std::string_view::npos ? std::string_view{} : rest.substr(feed + 1);
  }
  if (questions.size() != facts.claims.size())
    return {{}, fmt::format("{} facts, but {} questions", facts.claims.size(), questions.size())};
  SplitResult result;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const bool known = std::any_of(result.claims.begin(), result.claims.end(), [&](const Claim& claim) {
      return claim.question == questions[i];
    });
    if (!known) result.claims.push_back({facts.claims[i].text, questions[i]});
  }
  return result;
}

std::string split_request(const SplitTask& task, const SplitPrompts& prompts) {
  if (!prompts.facts.empty()) return filled(prompts.facts, {{"{question}", task.question}, {"{answer}", task.answer}});
  return fmt::format(
      "Take this answer about a picture apart. Write each fact that it states about the picture in a line of its own, as a whole "
      "sentence that can be understood alone, then two bars, then a yes/no question that asks whether the fact holds, like this:\n"
      "- There is a dog on the sofa. || Is there a dog on the sofa?\n"
      "Keep negations. Leave out opinions and greetings, and add nothing of your own. If the answer states no fact, write NONE.\n\n"
      "Question: {}\nAnswer: {}",
      task.question,
      task.answer);
}

SplitOutput cut_split() { return {"", "the splitter's output was cut at its limit of tokens"}; }

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
  if (config.splitter == "rules") {
    return std::make_unique<RuleSplitter>(config.splitter_detail == "attributes" ? ClaimDetail::kAttributes
                                                                                 : ClaimDetail::kThings);
  }
  if (config.splitter == "whole") return std::make_unique<WholeSplitter>();
  if (is_server(config.splitter))
    return std::make_unique<ServerSplitter>(
        config.splitter, config.splitter_server, SplitPrompts{config.splitter_prompt, config.question_prompt});
  return nullptr;
}

}  // namespace pocketvlm
