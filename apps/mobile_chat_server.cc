#include "apps/mobile_chat_server.h"

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <functional>
#include <new>
#include <thread>

#include "apps/mobile_openai.h"
#include "apps/mobile_request_queue.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"

namespace pocketvlm {
namespace {

constexpr const char* kJson = "application/json";
constexpr int kSpareThreads = 4;       // for requests that need no turn, and for refusals
constexpr int kRead_s = 30;            // silence of a client that sends its request
constexpr std::size_t kDiscarded = 4;  // times the limit that is read of a body that is too large

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void answer_json(httplib::Response& response, int status, const Json& json) {
  response.status = status;
  response.set_content(dump(json), kJson);
}

// A mistake that has its own status; others of the client are 400.
class HttpError : public Error {
 public:
  HttpError(int status, const std::string& type, const std::string& message)
      : Error(message), status_(status), type_(type) {}
  int status() const { return status_; }
  const std::string& type() const { return type_; }

 private:
  int status_;
  std::string type_;
};

// "127.0.0.1:8080" and "[::1]:8080" without the port.
std::string host_name(const std::string& header) {
  if (header.starts_with('[')) return header.substr(1, header.find(']') - 1);
  return header.substr(0, header.find(':'));
}

const char* meaning_of(int status) {
  switch (status) {
    case 404:
      return "no such address here; there are /, /health, /v1/models and /v1/chat/completions";
    case 413:
      return "the request is too large; send smaller pictures, or raise --max-body-mib";
    case 414:
      return "the address is too long";
    default:
      return "the request could not be read; send HTTP/1.1 with a Content-Length";
  }
}

std::string read_body(const httplib::Request& request,
                      const httplib::Response& response,
                      const httplib::ContentReader& read,
                      std::size_t limit) {
  const std::string type = request.get_header_value("Content-Type");
  if (!type.starts_with(kJson)) {
    throw HttpError(415,
                    "invalid_request_error",
                    fmt::format("Content-Type is \"{}\"; send application/json", type));
  }
  std::string body;
  std::size_t size = 0;
  const bool complete = read([&](const char* data, std::size_t bytes) {
    size += bytes;
    if (size <= limit) body.append(data, bytes);
    return size <= kDiscarded * limit;
  });
  if (size > limit || response.status == 413)
    throw HttpError(413, "invalid_request_error", meaning_of(413));
  PV_CHECK(complete, "the request's body ended too early");
  return body;
}

}  // namespace

class ChatServer::State {
 public:
  State(Session& session, const MobileSampling& defaults, const ChatServerOptions& options)
      : session_(session), defaults_(defaults), options_(options), queue_(options.max_waiting) {
    const int threads = options.max_waiting + 1 + kSpareThreads;
    server_.new_task_queue = [threads] {
      return new httplib::ThreadPool(static_cast<std::size_t>(threads));
    };
    // A kept connection would hold one of the threads while its client thinks.
    server_.set_keep_alive_max_count(1);
    server_.set_read_timeout(kRead_s);
    server_.set_tcp_nodelay(true);
    server_.set_payload_max_length(body_limit());
    // Not the library's SO_REUSEPORT, with which two servers share a port unnoticed.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.set_default_headers(
        {{"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}});
    add_guards();
    add_routes();
  }

  int bind() {
    const bool bound = options_.port == 0
                           ? (port_ = server_.bind_to_any_port(options_.host)) > 0
                           : server_.bind_to_port(options_.host, port_ = options_.port);
    PV_CHECK(bound,
             "cannot listen on {}:{}; another program may use the port: choose one with --port, or "
             "0 for any",
             options_.host,
             options_.port);
    return port_;
  }

  void run() {
    running_ = true;
    if (!stopping_) server_.listen_after_bind();
    running_ = false;
    queue_.close();
  }

  void stop() {
    stopping_ = true;
    queue_.close();
    // The library forgets a stop that comes before it listens.
    while (running_ && !server_.is_running())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    server_.stop();
  }

 private:
  // What a streamed answer needs after the request was understood.
  struct Work {
    std::unique_ptr<RequestQueue::Turn> turn;
    CompletionRequest request;
    EncodedChat prompt;
    double image_ms = 0;  // decoding, resize, slicing
    CompletionFacts facts;
  };

  std::size_t body_limit() const { return static_cast<std::size_t>(options_.max_body_mib) << 20; }

  void add_guards() {
    server_.set_pre_routing_handler([this](const httplib::Request& request,
                                           httplib::Response& response) {
      const std::string host = host_name(request.get_header_value("Host"));
      if (!is_loopback(options_.host) || is_loopback(host))
        return httplib::Server::HandlerResponse::Unhandled;
      answer_json(
          response,
          403,
          error_json(fmt::format(
                         "this server does not go by the name \"{}\"; use {}", host, options_.host),
                     "invalid_request_error"));
      return httplib::Server::HandlerResponse::Handled;
    });
    server_.set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (!response.body.empty()) return;
      const int status = response.status;
      answer_json(response, status, error_json(meaning_of(status), "invalid_request_error"));
    });
    server_.set_logger([](const httplib::Request& request, const httplib::Response& response) {
      spdlog::info("{} {} {}", request.method, request.path, response.status);
    });
  }

  void add_routes() {
    server_.Get("/", [](const httplib::Request&, httplib::Response& response) {
      response.set_header("Content-Security-Policy",
                          "default-src 'none'; script-src 'unsafe-inline'; style-src "
                          "'unsafe-inline'; img-src data: blob:; connect-src 'self'");
      response.set_content(kChatPage, "text/html; charset=utf-8");
    });
    server_.Get("/favicon.ico", [](const httplib::Request&, httplib::Response& response) {
      response.status = 204;
    });
    server_.Get("/health", [](const httplib::Request&, httplib::Response& response) {
      answer_json(response, 200, {{"status", "ok"}});
    });
    server_.Get("/v1/models", [this](const httplib::Request&, httplib::Response& response) {
      const Json model = {{"id", options_.model_name},
                          {"object", "model"},
                          {"created", started_},
                          {"owned_by", "pocketvlm"},
                          {"vision", session_.has_vision()},
                          {"context", session_.context()}};
      answer_json(response, 200, {{"object", "list"}, {"data", Json::array({model})}});
    });
    server_.Post("/v1/chat/completions",
                 [this](const httplib::Request& request,
                        httplib::Response& response,
                        const httplib::ContentReader& reader) {
                   guarded(response, [&] { complete(request, response, reader); });
                 });
  }

  template <typename Call>
  void guarded(httplib::Response& response, const Call& call) {
    try {
      call();
    } catch (const HttpError& error) {
      if (error.status() == 503) response.set_header("Retry-After", "5");
      answer_json(response, error.status(), error_json(error.what(), error.type()));
    } catch (const Error& error) {
      answer_json(response, 400, error_json(error.what(), "invalid_request_error"));
    } catch (const std::bad_alloc&) {
      answer_json(response, 500, error_json("out of memory; use fewer pictures", "server_error"));
    } catch (const std::exception& error) {
      answer_json(response, 500, error_json(error.what(), "server_error"));
    }
  }

  void complete(const httplib::Request& request,
                httplib::Response& response,
                const httplib::ContentReader& reader) {
    auto work = std::make_shared<Work>();
    work->request =
        read_completion_request(read_body(request, response, reader, body_limit()), defaults_);
    check_model(work->request);
    work->turn = take_turn();
    prepare(*work);
    if (!work->request.stream) return answer_whole(*work, response);
    response.set_chunked_content_provider("text/event-stream",
                                          [this, work](std::size_t, httplib::DataSink& sink) {
                                            answer_stream(*work, sink);
                                            return true;
                                          });
  }

  void check_model(const CompletionRequest& request) const {
    if (request.model.empty() || request.model == options_.model_name) return;
    throw HttpError(
        404,
        "invalid_request_error",
        fmt::format("request.model: there is no \"{}\" here; use \"{}\", or leave it out",
                    request.model,
                    options_.model_name));
  }

  std::unique_ptr<RequestQueue::Turn> take_turn() {
    std::unique_ptr<RequestQueue::Turn> turn = queue_.enter();
    if (turn) return turn;
    if (stopping_) throw_stopping();
    throw HttpError(
        503,
        "overloaded_error",
        fmt::format("{} requests are waiting already; try again later", options_.max_waiting));
  }

  [[noreturn]] static void throw_stopping() {
    throw HttpError(503, "server_error", "the server is shutting down");
  }

  // Holds the turn: pictures of one request at a time are in memory.
  void prepare(Work& work) {
    const auto begin = std::chrono::steady_clock::now();
    const Chat chat = chat_of(work.request, session_.encoder().image());
    PV_CHECK(chat.images.empty() || session_.has_vision(),
             "the model was loaded without its vision file and sees no pictures; start the server "
             "with --mmproj FILE");
    work.prompt = session_.encoder().encode(chat, true);
    work.image_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    const auto tokens = static_cast<std::int64_t>(work.prompt.ids.size());
    PV_CHECK(tokens < session_.context(),
             "the conversation has {} tokens, but the context holds {}; shorten it, send fewer "
             "pictures, or start the server with a larger --context",
             tokens,
             session_.context());
    const std::uint64_t number = ++requests_;
    if (!work.request.seed_given) work.request.sampling.seed = mix_keys({defaults_.seed, number});
    work.facts = {fmt::format("chatcmpl-{}-{}", started_, number),
                  static_cast<std::int64_t>(std::time(nullptr)),
                  options_.model_name};
  }

  // Runs the model. `on_text` receives what is certain to belong to the answer and returns false
  // when nobody listens any more. Returns the finish reason.
  std::string generate(Work& work,
                       const std::function<bool(const std::string&)>& on_text,
                       ChatTimings& timings,
                       std::vector<TokenLogProbs>* log_probs = nullptr) {
    StopTexts stop(work.request.stop);
    ChatAnswer answer =
        session_.answer(work.prompt, work.request.sampling, [&](std::string_view piece) {
          const std::string certain = stop.add(piece);
          const bool heard = certain.empty() || on_text(certain);
          return heard && !stop.found() && !stopping_;
        });
    const std::string rest = stop.finish();
    if (!rest.empty()) on_text(rest);
    if (log_probs != nullptr) *log_probs = std::move(answer.log_probs);
    timings = answer.timings;
    timings.image_ms = work.image_ms;
    return answer.stopped || stop.found() ? "stop" : "length";
  }

  void answer_whole(Work& work, httplib::Response& response) {
    std::string text;
    ChatTimings timings;
    std::vector<TokenLogProbs> log_probs;
    const std::string reason = generate(
        work,
        [&](const std::string& piece) {
          text += piece;
          return true;
        },
        timings,
        &log_probs);
    if (stopping_) throw_stopping();
    const Json told = work.request.sampling.top_logprobs
                          ? logprobs_json(log_probs, text, session_.encoder().tokenizer())
                          : Json(nullptr);
    answer_json(response, 200, completion_json(work.facts, text, reason, timings, told));
  }

  void answer_stream(Work& work, httplib::DataSink& sink) {
    const auto send = [&](const Json& event) {
      const std::string text = "data: " + dump(event) + "\n\n";
      return sink.write(text.data(), text.size()) && sink.is_writable();
    };
    try {
      send(chunk_json(work.facts, {{"role", "assistant"}, {"content", ""}}, nullptr));
      ChatTimings timings;
      const std::string reason = generate(
          work,
          [&](const std::string& piece) {
            return send(chunk_json(work.facts, {{"content", piece}}, nullptr));
          },
          timings);
      if (stopping_) throw_stopping();
      send(chunk_json(work.facts, Json::object(), reason));
      if (work.request.include_usage) send(usage_chunk_json(work.facts, timings));
      constexpr std::string_view kEnd = "data: [DONE]\n\n";
      sink.write(kEnd.data(), kEnd.size());
    } catch (const std::exception& error) {
      // The status was sent long ago.
      send(error_json(error.what(), "server_error"));
    }
    work.turn.reset();
    sink.done();
  }

  Session& session_;
  const MobileSampling defaults_;
  const ChatServerOptions options_;
  const std::int64_t started_ = static_cast<std::int64_t>(std::time(nullptr));
  RequestQueue queue_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> running_{false};
  std::atomic<std::uint64_t> requests_{0};
  int port_ = 0;
  httplib::Server server_;
};

bool is_loopback(const std::string& host) {
  // Digits alone: "127.example.org" is anybody's name.
  const bool numbers = host.find_first_not_of("0123456789.") == std::string::npos;
  return host == "localhost" || host == "::1" || (numbers && host.starts_with("127."));
}

ChatServer::ChatServer(Session& session,
                       const MobileSampling& defaults,
                       const ChatServerOptions& options)
    : state_(std::make_unique<State>(session, defaults, options)) {}
ChatServer::~ChatServer() = default;

int ChatServer::bind() { return state_->bind(); }
void ChatServer::run() { state_->run(); }
void ChatServer::stop() { state_->stop(); }

}  // namespace pocketvlm
