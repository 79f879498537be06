#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>

#include "apps/mobile_chat_server.h"
#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"
#include "base/log.h"

namespace pocketvlm {
namespace {

struct ServeOptions {
  ModelOptions model;
  MobileSampling sampling;
  ChatServerOptions server;
  bool json = false;
};

// SIGINT and SIGTERM wait to be fetched, in this thread and all that it starts.
sigset_t hold_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);  // clients may leave in the middle of an answer
  return signals;
}

void announce(const ServeOptions& options, int port) {
  const std::string url = fmt::format("http://{}:{}", options.server.host, port);
  if (options.json)
    print_json({{"url", url}, {"model", options.server.model_name}, {"pid", getpid()}});
  else
    std::printf("%s\n", url.c_str());
  std::fflush(stdout);
  if (!is_loopback(options.server.host)) {
    spdlog::warn("everybody who reaches {} may use this server: it asks for no password",
                 options.server.host);
  }
}

void run_serve(ServeOptions& options) {
  const sigset_t signals = hold_signals();
  use_tuning(options.model);
  Session session(options.model.model, options.model.mmproj, options.model.session);
  options.server.model_name = std::filesystem::path(options.model.model).stem().string();
  ChatServer server(session, options.sampling, options.server);
  announce(options, server.bind());
  std::thread thread([&] {
    server.run();
    kill(getpid(), SIGTERM);  // should it ever end by itself, the wait below ends, too
  });
  int received = 0;
  sigwait(&signals, &received);
  server.stop();
  thread.join();
}

}  // namespace

void add_serve_command(CLI::App& app) {
  CLI::App* serve =
      app.add_subcommand("serve", "an OpenAI-compatible HTTP server with a page to chat on");
  auto options = std::make_shared<ServeOptions>();
  // An answer on a page or for a program may be longer than a line on the terminal.
  options->sampling.max_new_tokens = 512;
  add_model_options(*serve, options->model);
  add_tuning_option(*serve, options->model);
  add_sampling_options(*serve, options->sampling);
  add_json_option(*serve, options->json);
  serve->add_option(
      "--host", options->server.host, "address to listen on; default: this device only");
  serve->add_option("--port", options->server.port, "0: any free one")->check(CLI::Range(0, 65535));
  serve->add_option("--max-body-mib", options->server.max_body_mib, "size of a request at most")
      ->check(CLI::Range(1, 4096));
  serve->add_option("--queue", options->server.max_waiting, "requests that may wait")
      ->check(CLI::Range(0, 1000));
  serve->callback([options] { run_serve(*options); });
}

}  // namespace pocketvlm
