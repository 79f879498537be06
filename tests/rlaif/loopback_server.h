#pragma once

#include <httplib.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"

namespace pocketvlm::test {

/// A server on loopback that speaks OpenAI's chat completions and fails as it is told to.
class LoopbackServer {
 public:
  using Handler = std::function<void(const httplib::Request&, httplib::Response&)>;

  explicit LoopbackServer(Handler handler) {
    server_.Post("/v1/chat/completions", [this, handler](const auto& request, auto& response) {
      const int now = ++open_;
      int most = most_open_.load();
      while (now > most && !most_open_.compare_exchange_weak(most, now)) {
      }
      ++requests_;
      handler(request, response);
      --open_;
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~LoopbackServer() {
    server_.stop();
    thread_.join();
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/v1"; }
  int requests() const { return requests_; }
  int most_open() const { return most_open_; }

  /// A whole reply whose first token is likely yes or no.
  static std::string reply(const std::string& text, double p_yes = -1) {
    Json choice = {{"index", 0}, {"message", {{"role", "assistant"}, {"content", text}}}};
    if (p_yes >= 0) {
      const auto token = [](const char* word, double p) {
        return Json{{"token", word}, {"logprob", std::log(p)}};
      };
      choice["logprobs"] = {
          {"content",
           Json::array({{{"token", "x"},
                         {"top_logprobs",
                          Json::array({token("Yes", p_yes * 0.75), token(" yes", p_yes * 0.25), token("No", 1 - p_yes),
                                       token("Maybe", 1e-6)})}}})}};
    }
    return Json{{"id", "chatcmpl-1"}, {"object", "chat.completion"}, {"choices", Json::array({choice})}}.dump();
  }
  /// The text of a request's question.
  static std::string question_of(const httplib::Request& request) {
    const Json whole = Json::parse(request.body);
    for (const Json& part : whole.at("messages").at(0).at("content")) {
      if (part.at("type") == "text") return part.at("text").get<std::string>();
    }
    return "";
  }

 private:
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  std::atomic<int> open_{0}, most_open_{0}, requests_{0};
};

}  // namespace pocketvlm::test
