#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace pocketvlm {

/// A program that serves HTTP, as its own process, until it says on which port.
class ServerProcess {
 public:
  /// `pocketvlm-mobile serve` on a free port of this machine.
  explicit ServerProcess(std::vector<std::string> arguments);

  /// Any other: its port stands in its output behind `mark`.
  ServerProcess(std::vector<std::string> command, const std::string& mark);

  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  int port() const { return port_; }
  std::string errors() const;
  void send(int signal) const;

  /// Ends it. Returns the exit status, 128 + the signal when it did not exit by itself.
  int stop(int signal);

 private:
  void start(std::vector<std::string> command, const std::string& mark);

  std::string out_, err_;
  pid_t pid_ = -1;
  int port_ = 0;
};

}  // namespace pocketvlm
