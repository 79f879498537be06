#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "rlaif/chat_client.h"
#include "rlaif/claims.h"

namespace pocketvlm {

/// What is to be divided: an answer, and the question that it answers.
struct SplitTask {
  std::string question;
  std::string answer;
  std::string language = {};  // of the answer; empty: not said
};

/// The claims of an answer; or why they cannot be had.
struct SplitResult {
  std::vector<Claim> claims;
  std::string problem;  // empty: none
};

/// The role of the splitter: divides answers into facts, each with the question that asks for it.
class Splitter {
 public:
  virtual ~Splitter() = default;
  virtual std::vector<SplitResult> split(const std::vector<SplitTask>& tasks) = 0;
  virtual std::string identity() const = 0;  // changes when answers would be divided otherwise
  virtual Json traffic() const { return nullptr; }
};

/// split_claims (rlaif/claims.h).
class RuleSplitter : public Splitter {
 public:
  explicit RuleSplitter(ClaimDetail detail = ClaimDetail::kThings) : detail_(detail) {}
  std::vector<SplitResult> split(const std::vector<SplitTask>& tasks) override;
  std::string identity() const override {
    return detail_ == ClaimDetail::kThings ? "rules in 12 languages" : "rules in 12 languages, with attributes";
  }

 private:
  ClaimDetail detail_;
};

/// Every answer is one claim: a score of the whole, for comparison.
class WholeSplitter : public Splitter {
 public:
  std::vector<SplitResult> split(const std::vector<SplitTask>& tasks) override;
  std::string identity() const override { return "whole"; }
};

/// What a language model is asked, to divide an answer: the config's words, or the built-in ones.
struct SplitPrompts {
  std::string facts, questions;  // splitter_prompt and question_prompt
  bool in_two_turns() const { return !questions.empty(); }
  /// Behind a model's identity; empty for the built-in words.
  std::string identity() const;
};

/// What a model wrote about one request, or why there is nothing to read.
struct SplitOutput {
  std::string text;
  std::string problem = {};
};

/// Divides answers by a model: `ask` gives an output for each request, in their order. With two turns, the second asks for the questions
/// of those answers that state a fact.
std::vector<SplitResult> split_by_model(const SplitPrompts& prompts,
                                        const std::vector<SplitTask>& tasks,
                                        const std::function<std::vector<SplitOutput>(const std::vector<std::string>& requests)>& ask);

/// A language model behind HTTP, asked by `split_by_model`.
class ServerSplitter : public Splitter {
 public:
  ServerSplitter(const std::string& url, const ServerConfig& config, SplitPrompts prompts = {})
      : client_(url, config), prompts_(std::move(prompts)) {}
  std::vector<SplitResult> split(const std::vector<SplitTask>& tasks) override;
  std::string identity() const override { return client_.url() + " " + client_.config().model + prompts_.identity(); }
  Json traffic() const override { return client_.traffic().to_json(); }

 private:
  ChatClient client_;
  SplitPrompts prompts_;
};

/// The request to divide an answer. Nothing of the answer is cut off.
std::string split_request(const SplitTask& task, const SplitPrompts& prompts = {});

/// Tokens that a language model may write about one answer. Output that is longer is a problem, `cut_split`: the facts behind
/// the cut are not known.
inline constexpr std::int64_t kSplitTokens = 2048;
SplitOutput cut_split();

/// Reads a model's lines "- fact || question?". Fact and question stand in one line, so the two cannot get
/// out of step; a fact without a question asks "is it true that ...?". Anything but such lines, or the one
/// word NONE, is a problem: "no facts in the splitter's output".
SplitResult read_split(const std::string& output);

/// Puts the questions of a second turn, a line "- question" each, in the place of those that `facts` has. Another number of lines is
/// a problem that names both.
SplitResult with_questions(SplitResult facts, const std::string& output);

/// "rules", "whole", or a server; a checkpoint is made by make_splitter (rlaif/checkpoint_splitter.h).
std::unique_ptr<Splitter> make_light_splitter(const RlaifConfig& config);

}  // namespace pocketvlm
