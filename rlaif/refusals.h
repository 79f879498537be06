#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "rlaif/jsonl_log.h"

namespace pocketvlm {

/// Requests that a server refused for another reason than their length: one is a counted problem of its question, most of
/// them are none of single questions, such as a model's name that the server does not know.
class Refusals {
 public:
  static bool is_refusal(const std::string& problem) { return problem.starts_with("refused"); }

  void count(const std::string& problem) {
    ++asked_;
    if (!is_refusal(problem)) return;
    ++refused_;
    last_ = problem;
  }

  /// Throws Error when more than `few` requests and more than half of all were refused. Rows of `log` from the first refused
  /// one on are cut off: they are asked for again when the stage goes on.
  void check(const std::string& role, JsonlLog& log, std::int64_t few = 8) const {
    if (refused_ <= few || refused_ * 2 <= asked_) return;
    std::size_t kept = 0;
    while (kept < log.rows().size() && !is_refusal(log.rows()[kept].value("problem", ""))) ++kept;
    if (kept < log.rows().size()) log.keep(kept);
    fail("{}: {} of {} requests were refused; the last: {}", role, refused_, asked_, last_);
  }

 private:
  std::int64_t asked_ = 0, refused_ = 0;
  std::string last_;
};

}  // namespace pocketvlm
