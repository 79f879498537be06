#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "mobile/session.h"

namespace pocketvlm {

struct ChatServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                 // 0: any free one
  std::int64_t max_body_mib = 64;  // of a request; larger ones are refused
  int max_waiting = 8;             // requests that wait for the one being answered
  std::string model_name;          // as clients see it
};

/// HTTP server with an interface like OpenAI's over one session, and a page to chat on:
///
///   GET  /                       the page
///   GET  /health                 {"status": "ok"}
///   GET  /v1/models              the one model
///   POST /v1/chat/completions    an answer, whole or as server-sent events
///
/// Answers are computed one at a time, in the order of their requests. Mistakes are answered with a
/// status of 400 and more, and {"error": {"message", ...}}. Bound to a loopback address it listens
/// only to requests that name it so, lest a web page of elsewhere reach it through the browser.
class ChatServer {
 public:
  /// `defaults` hold for what a request leaves open; requests without a seed get one each, derived
  /// from theirs. The session must outlive the server, and nobody else may use it meanwhile.
  ChatServer(Session& session, const MobileSampling& defaults, const ChatServerOptions& options);
  ~ChatServer();

  /// Takes the address. Returns the port. Throws Error naming the address that cannot be had.
  int bind();
  /// Serves until stop() and until the answers in progress have ended.
  void run();
  /// Ends answers at their next token; may be called from any thread, also before run().
  void stop();

 private:
  class State;
  std::unique_ptr<State> state_;
};

/// Whether a host name or address is this device's own, out of reach for others.
bool is_loopback(const std::string& host);

/// The page of "GET /": one file, no addresses outside this server.
extern const char* const kChatPage;

}  // namespace pocketvlm
