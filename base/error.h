#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace pocketvlm {

/// What a user can cause and mend: the text says where, what, the values and the cure.
/// Programs catch it in `main`, print it once and exit with status 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A check that the user asked for did not hold (parity gate, verification): exit status 2.
class CheckFailed : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) {
  throw Error(fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace pocketvlm

/// PV_CHECK(n <= max, "{}:{}: {} tokens exceed data.max_tokens = {}; raise it", file, line, n, max)
#define PV_CHECK(condition, ...)                \
  do {                                          \
    if (!(condition)) [[unlikely]]              \
      ::pocketvlm::fail(__VA_ARGS__);           \
  } while (false)
