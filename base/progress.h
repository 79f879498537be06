#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace pocketvlm {

/// One line for long work: done, rate, time left, and a note (loss, rate of images ...).
/// On a terminal the line is redrawn in place; otherwise a plain line appears every ten seconds.
/// Writes to standard error.
class Progress {
 public:
  Progress(std::string title, std::int64_t total, std::int64_t start = 0);
  ~Progress();

  void update(std::int64_t done, const std::string& note = "");
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(const std::string& note);

  std::string title_;
  std::int64_t total_;
  std::int64_t start_;
  std::int64_t done_;
  Clock::time_point begin_;
  Clock::time_point last_;
  bool terminal_;
  bool finished_ = false;
};

}  // namespace pocketvlm
