#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "data/preprocess/image.h"
#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// One question to a server.
struct ChatQuestion {
  std::string text;
  std::string image_url;  // data: address of the picture; empty: none
  std::int64_t max_tokens = 1;
  bool first_token = false;  // ask for the first token's probabilities
};

/// What it said.
struct ChatReply {
  std::string text;
  std::vector<std::pair<std::string, double>> first_token;  // likely tokens and their log-probs; empty: not told
  std::string refused;  // the server's words when it does not take this question; then there is no text
  bool too_long = false;  // refused for its length
  bool cut = false;       // the text ends at max_tokens
};

/// What happened on the wire; for the report.
struct ChatTraffic {
  std::int64_t requests = 0;                    // sent, tries included
  std::int64_t tries_again = 0;
  std::map<std::string, std::int64_t> failures;  // reason -> tries that failed
  Json to_json() const;
};

/// A picture as a data: address with its pixels unchanged (PNG).
std::string image_data_url(const Image& image);

/// A client of OpenAI's chat completions (vLLM, llama.cpp, pocketvlm-mobile serve): several requests under way at
/// once, a limit on requests a minute, a deadline for each, tries again after what may pass (timeouts, cut
/// connections, damaged replies, 408, 429, 5xx; and replies to another request, where the server echoes X-Request-Id: many
/// write an id of their own there).
class ChatClient {
 public:
  /// `url` such as http://127.0.0.1:8000/v1. Throws Error when it is none, and when the key's variable is not set.
  ChatClient(std::string url, ServerConfig config);

  /// Replies in the order of the questions, whatever order they come in; a question refused with status 400, 413 or 422 gives
  /// a reply that says so. Throws Error naming the server when one of them cannot be had: refused with another status (the
  /// server's words are in the error), or failed `attempts` times.
  std::vector<ChatReply> ask(const std::vector<ChatQuestion>& questions);

  const std::string& url() const { return url_; }
  const ServerConfig& config() const { return config_; }
  ChatTraffic traffic() const;

 private:
  struct Failure;
  ChatReply ask_one(const ChatQuestion& question);
  ChatReply try_once(const ChatQuestion& question, const std::string& id);
  void wait_for_turn();
  void hold_back(double seconds);
  void check_echo(const std::string& asked, const std::string& answered);

  std::string url_, host_, path_;
  ServerConfig config_;
  std::string key_;
  mutable std::mutex mutex_;
  std::chrono::steady_clock::time_point next_start_{};
  ChatTraffic traffic_;
  std::atomic<std::int64_t> next_id_{0};
  enum class Echo { unknown, never, always };
  Echo echo_ = Echo::unknown;  // what the first reply showed; under mutex_
};

}  // namespace pocketvlm
