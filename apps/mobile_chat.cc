#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"

namespace pocketvlm {
namespace {

struct ChatOptions {
  ModelOptions model;
  MobileSampling sampling;
  std::string prompt;
  std::string system;
  PictureOptions pictures;
  bool json = false;
};

std::atomic<bool> interrupted{false};

// Ctrl-C ends the answer that is being written; a second one, before the next token came, ends the
// program as usual.
class InterruptsEndTheAnswer {
 public:
  InterruptsEndTheAnswer() {
    interrupted = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptsEndTheAnswer() { sigaction(SIGINT, &before_, nullptr); }
  InterruptsEndTheAnswer(const InterruptsEndTheAnswer&) = delete;
  InterruptsEndTheAnswer& operator=(const InterruptsEndTheAnswer&) = delete;

 private:
  struct sigaction before_ = {};
};

bool print_piece(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return !interrupted;
}

void chat_once(Session& session, const ChatOptions& options) {
  Chat chat;
  if (!options.system.empty()) chat.turns.push_back({"system", options.system});
  chat.turns.push_back({"user", options.prompt});
  const PromptEncoder encoder = encoder_for(options.pictures, session);
  chat.images = load_images(picture_files(options.pictures), encoder.image());
  const auto begin = std::chrono::steady_clock::now();
  const EncodedChat prompt = encoder.encode(chat, true);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin;
  if (!options.json) {
    session.answer(prompt, options.sampling, print_piece);
    std::printf("\n");
    return;
  }
  ChatAnswer answer = session.answer(prompt, options.sampling);
  answer.timings.image_ms = spent.count();
  print_json({{"text", answer.text},
              {"ids", answer.ids},
              {"stopped", answer.stopped},
              {"timings", timings_json(answer.timings)}});
}

/// A conversation on the terminal. Lines that begin with a slash are commands; each other line is a
/// message, and shows the pictures given since the last one.
class Conversation {
 public:
  Conversation(Session& session, const ChatOptions& options)
      : session_(session),
        options_(options),
        encoder_(encoder_for(options.pictures, session)),
        waiting_(picture_files(options.pictures)) {
    reset();
  }

  // Returns false when the line ends the conversation.
  bool take(const std::string& line) {
    if (line == "/exit") return false;
    if (line.empty()) return true;
    const Chat before = chat_;
    try {
      if (line[0] == '/')
        command(line);
      else
        answer(line);
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      chat_ = before;
    }
    return true;
  }

 private:
  void reset() {
    chat_ = Chat();
    if (!options_.system.empty()) chat_.turns.push_back({"system", options_.system});
  }

  void command(const std::string& line) {
    if (line == "/reset") {
      reset();
      waiting_.clear();
    } else if (line == "/stats") {
      std::fprintf(stderr, "%s\n", timings_json(timings_).dump(2).c_str());
    } else if (line.starts_with("/image ")) {
      PV_CHECK(session_.has_vision(), "pictures need the vision file: start with --mmproj FILE");
      const std::string path = line.substr(7);
      load_images({path}, encoder_.image());  // says now what is wrong with it
      waiting_.push_back(path);
    } else {
      fail("unknown command \"{}\"; there are /image FILE, /reset, /stats and /exit", line);
    }
  }

  void answer(const std::string& line) {
    std::string marks;
    for (Image& image : load_images(waiting_, encoder_.image())) {
      chat_.images.push_back(std::move(image));
      marks += "<image>\n";
    }
    chat_.turns.push_back({"user", marks + line});
    const InterruptsEndTheAnswer guard;
    const ChatAnswer answer = session_.answer(encoder_.encode(chat_, true), options_.sampling, print_piece);
    std::printf("\n");
    std::fflush(stdout);
    chat_.turns.push_back({"assistant", answer.text});
    timings_ = answer.timings;
    waiting_.clear();
  }

  Session& session_;
  const ChatOptions& options_;
  PromptEncoder encoder_;
  Chat chat_;
  std::vector<std::string> waiting_;  // pictures of the next message
  ChatTimings timings_;               // of the last answer
};

void chat_on_terminal(Session& session, const ChatOptions& options) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  if (terminal) {
    std::fprintf(stderr,
                 "/image FILE adds a picture to the next message, /reset starts over, /stats tells "
                 "times, Ctrl-C ends an answer, /exit or Ctrl-D the conversation.\n");
  }
  Conversation conversation(session, options);
  std::string line;
  do {
    if (terminal) std::fprintf(stderr, "> ");
  } while (std::getline(std::cin, line) && conversation.take(line));
}

void run_chat(ChatOptions& options) {
  PV_CHECK(!options.json || !options.prompt.empty(), "--json needs --prompt");
  check_pictures(options.pictures, options.model);
  use_tuning(options.model);
  Session session(options.model.model, options.model.mmproj, options.model.session);
  if (options.prompt.empty())
    chat_on_terminal(session, options);
  else
    chat_once(session, options);
}

}  // namespace

void add_chat_command(CLI::App& app) {
  CLI::App* chat = app.add_subcommand("chat", "answer one prompt, or talk on the terminal");
  auto options = std::make_shared<ChatOptions>();
  add_model_options(*chat, options->model);
  add_tuning_option(*chat, options->model);
  add_picture_options(*chat, options->pictures);
  add_sampling_options(*chat, options->sampling);
  add_json_option(*chat, options->json);
  chat->add_option("--prompt", options->prompt, "the message; without it a conversation begins");
  chat->add_option("--system", options->system, "system message");
  chat->callback([options] { run_chat(*options); });
}

}  // namespace pocketvlm
