#include "tests/mobile/server_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <utility>

#include "base/files.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {

ServerProcess::ServerProcess(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {std::string(BINARY_ROOT) + "/pocketvlm-mobile", "serve"});
  arguments.insert(arguments.end(), {"--port", "0", "--json"});
  start(std::move(arguments), "http://127.0.0.1:");
}

ServerProcess::ServerProcess(std::vector<std::string> command, const std::string& mark) { start(std::move(command), mark); }

ServerProcess::~ServerProcess() {
  if (pid_ > 0) stop(SIGKILL);
}

std::string ServerProcess::errors() const { return read_file(err_); }

void ServerProcess::send(int signal) const { kill(pid_, signal); }

int ServerProcess::stop(int signal) {
  kill(pid_, signal);
  int code = 0;
  waitpid(std::exchange(pid_, -1), &code, 0);
  return WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code);
}

void ServerProcess::start(std::vector<std::string> command, const std::string& mark) {
  const std::string folder = temporary_folder();
  out_ = folder + "/out";
  err_ = folder + "/err";
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(open(out_.c_str(), O_CREAT | O_WRONLY, 0600), STDOUT_FILENO);
    dup2(open(err_.c_str(), O_CREAT | O_WRONLY, 0600), STDERR_FILENO);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  for (int i = 0; i < 6000; ++i) {
    const std::string out = std::ifstream(out_).good() ? read_file(out_) : "";
    const std::size_t at = out.find(mark);
    // Behind the number comes something that ends it, once all of it is there.
    if (at != out.npos && out.find_first_not_of("0123456789", at + mark.size()) != out.npos) {
      port_ = std::atoi(out.c_str() + at + mark.size());
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ADD_FAILURE() << "no address: " << errors();
}

}  // namespace pocketvlm
