#pragma once

#include <exception>

#include "base/error.h"

namespace pocketvlm {

/// Another rank, or the way to it, was lost: no mistake of the user, and the same command with --resume may well succeed.
class LostRank : public Error {
 public:
  using Error::Error;
};

/// Exit status of a job that lost a rank, whoever noticed it first, the watchdog or a collective that failed (sysexits' EX_TEMPFAIL). The
/// scripts that start jobs start such a one again.
inline constexpr int kLostRankStatus = 75;

/// The exit status of a program that ends by this error: 75 a lost rank, 2 a check that did not hold, else 1.
inline int exit_status(const std::exception& error) {
  if (dynamic_cast<const LostRank*>(&error) != nullptr) return kLostRankStatus;
  return dynamic_cast<const CheckFailed*>(&error) != nullptr ? 2 : 1;
}

}  // namespace pocketvlm
