#include "rlaif/chat_client.h"

#include <httplib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <thread>

#include "base/base64.h"
#include "base/error.h"

namespace pocketvlm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kLargestReply = std::size_t{16} << 20;

Json request_of(const ChatQuestion& question, const std::string& model) {
  Json content = Json::array();
  if (!question.image_url.empty())
    content.push_back({{"type", "image_url"}, {"image_url", {{"url", question.image_url}}}});
  content.push_back({{"type", "text"}, {"text", question.text}});
  Json request = {{"messages", Json::array({{{"role", "user"}, {"content", content}}})},
                  {"max_tokens", question.max_tokens},
                  {"temperature", 0}};
  if (!model.empty()) request["model"] = model;
  if (question.first_token) {
    request["logprobs"] = true;
    request["top_logprobs"] = 20;
  }
  return request;
}

// What a server says about a failure, short enough for an error.
std::string words_of(const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  if (json.is_object() && json.contains("error")) {
    const Json& error = json["error"];
    if (error.is_string()) return error.get<std::string>();
    if (error.is_object() && error.contains("message") && error["message"].is_string())
      return error["message"].get<std::string>();
  }
  return body.size() > 200 ? body.substr(0, 200) + "..." : body;
}

bool is_about_length(const std::string& words) {
  for (const char* part : {"context", "too long", "too many tokens", "maximum", "exceed"}) {
    if (words.find(part) != std::string::npos) return true;
  }
  return false;
}

ChatReply reply_of(const Json& json) {
  ChatReply reply;
  const Json& choice = json.at("choices").at(0);
  PV_CHECK(choice.value("index", 0) == 0, "its only choice has the index {}", choice.at("index").dump());
  const Json& content = choice.at("message").at("content");
  if (!content.is_null()) reply.text = content.get<std::string>();
  reply.cut = choice.contains("finish_reason") && choice["finish_reason"] == "length";
  if (!choice.contains("logprobs") || choice["logprobs"].is_null()) return reply;
  const Json& tokens = choice["logprobs"].at("content");
  if (!tokens.is_array() || tokens.empty()) return reply;
  for (const Json& token : tokens.at(0).at("top_logprobs")) {
    const double log_prob = token.at("logprob").get<double>();
    PV_CHECK(log_prob <= 1e-3, "its log-prob {} is above 0", log_prob);
    reply.first_token.emplace_back(token.at("token").get<std::string>(), log_prob);
  }
  return reply;
}

}  // namespace

// A try that may be repeated.
struct ChatClient::Failure {
  std::string reason;  // for counting
  std::string words;
  std::optional<double> retry_after_s;
};

Json ChatTraffic::to_json() const {
  return {{"requests", requests}, {"tries_again", tries_again}, {"failures", failures}};
}

std::string image_data_url(const Image& image) {
  return "data:image/png;base64," + encode_base64(encode_png(image));
}

ChatClient::ChatClient(std::string url, ServerConfig config)
    : url_(std::move(url)), config_(std::move(config)) {
  while (url_.ends_with('/')) url_.pop_back();
  const std::size_t begin = url_.find("://");
  PV_CHECK(is_server(url_) && url_.size() > begin + 3,
           "{}: not the address of a server; write it as http://host:port/v1",
           url_);
  const std::size_t slash = url_.find('/', begin + 3);
  host_ = url_.substr(0, slash);
  path_ = (slash == std::string::npos ? "" : url_.substr(slash)) + "/chat/completions";
  if (!config_.api_key_variable.empty()) {
    const char* key = std::getenv(config_.api_key_variable.c_str());
    PV_CHECK(key != nullptr,
             "{}: the environment variable {} (api_key_variable) is not set",
             url_,
             config_.api_key_variable);
    key_ = key;
  }
}

ChatTraffic ChatClient::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

// Starts are spaced evenly by the limit a minute; after a 429 nobody starts before the server wants to hear again.
void ChatClient::wait_for_turn() {
  Clock::time_point turn;
  {
    const std::lock_guard lock(mutex_);
    turn = std::max(Clock::now(), next_start_);
    next_start_ = turn;
    if (config_.requests_per_minute > 0) {
      next_start_ += std::chrono::duration_cast<Clock::duration>(
          std::chrono::duration<double>(60 / config_.requests_per_minute));
    }
    ++traffic_.requests;
  }
  std::this_thread::sleep_until(turn);
}

void ChatClient::hold_back(double seconds) {
  const std::lock_guard lock(mutex_);
  next_start_ = std::max(next_start_,
                         Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                            std::chrono::duration<double>(seconds)));
}

// OpenAI and many proxies write an id of their own; only of a server whose first reply had ours can another one be wrong.
void ChatClient::check_echo(const std::string& asked, const std::string& answered) {
  const std::lock_guard lock(mutex_);
  if (echo_ == Echo::unknown) echo_ = answered == asked ? Echo::always : Echo::never;
  if (echo_ == Echo::always && !answered.empty() && answered != asked)
    throw Failure{"reply to another request", fmt::format("asked {}, answered {}", asked, answered), {}};
}

ChatReply ChatClient::try_once(const ChatQuestion& question, const std::string& id) {
  httplib::Client client(host_);
  const auto timeout = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::duration<double>(config_.timeout_s));
  client.set_connection_timeout(timeout);
  client.set_read_timeout(timeout);
  client.set_write_timeout(timeout);
  const Clock::time_point deadline = Clock::now() + timeout;

  httplib::Request request;
  request.method = "POST";
  request.path = path_;
  request.body = request_of(question, config_.model)
                     .dump(-1, ' ', false, Json::error_handler_t::replace);
  request.set_header("Content-Type", "application/json");
  request.set_header("X-Request-Id", id);
  if (!key_.empty()) request.set_header("Authorization", "Bearer " + key_);
  // The timeouts above are of single reads: a server that drips bytes is ended here.
  std::string body;
  bool too_late = false;
  request.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
    too_late = Clock::now() > deadline;
    body.append(data, size);
    return !too_late && body.size() <= kLargestReply;
  };
  const httplib::Result result = client.send(request);
  if (too_late) throw Failure{"timeout", "no whole reply in time", {}};
  if (!result) {
    const bool slow = Clock::now() >= deadline || result.error() == httplib::Error::ConnectionTimeout;
    throw Failure{slow ? "timeout" : "connection", httplib::to_string(result.error()), {}};
  }
  if (result->status == 408 || result->status == 429 || result->status >= 500) {
    Failure failure{fmt::format("status {}", result->status), words_of(body), {}};
    const std::string after = result->get_header_value("Retry-After");
    if (!after.empty() && after.find_first_not_of("0123456789.") == std::string::npos)
      failure.retry_after_s = std::atof(after.c_str());
    throw failure;
  }
  if (result->status != 200) {
    const std::string words = words_of(body);
    if (result->status == 400 || result->status == 413 || result->status == 422)
      return {"", {}, words.empty() ? fmt::format("status {}", result->status) : words, is_about_length(words)};
    fail("{}: refuses a request with status {}: {}", url_, result->status, words);
  }
  check_echo(id, result->get_header_value("X-Request-Id"));
  try {
    return reply_of(parse_json(body, "reply"));
  } catch (const std::exception& error) {
    throw Failure{"damaged reply", error.what(), {}};
  }
}

ChatReply ChatClient::ask_one(const ChatQuestion& question) {
  for (std::int64_t attempt = 1;; ++attempt) {
    wait_for_turn();
    try {
      return try_once(question, fmt::format("pocketvlm-{}", next_id_++));
    } catch (const Failure& failure) {
      {
        const std::lock_guard lock(mutex_);
        ++traffic_.failures[failure.reason];
        if (attempt < config_.attempts) ++traffic_.tries_again;
      }
      PV_CHECK(attempt < config_.attempts,
               "{}: no reply after {} tries; the last: {}: {}. What is done is kept: start again "
               "with --resume when the server answers",
               url_,
               attempt,
               failure.reason,
               failure.words);
      const double doubled = config_.first_wait_s * std::pow(2.0, static_cast<double>(attempt - 1));
      const double wait = std::min(failure.retry_after_s.value_or(doubled), config_.longest_wait_s);
      if (failure.reason == "status 429") hold_back(wait);
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    }
  }
}

std::vector<ChatReply> ChatClient::ask(const std::vector<ChatQuestion>& questions) {
  std::vector<ChatReply> replies(questions.size());
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    for (std::size_t i = next++; i < questions.size() && !failed; i = next++) {
      try {
        replies[i] = ask_one(questions[i]);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        failed = true;
      }
    }
  };
  {
    std::vector<std::jthread> workers;
    const auto count = std::min<std::size_t>(static_cast<std::size_t>(config_.concurrency), questions.size());
    for (std::size_t i = 0; i < count; ++i) workers.emplace_back(work);
  }
  if (error) std::rethrow_exception(error);
  return replies;
}

}  // namespace pocketvlm
