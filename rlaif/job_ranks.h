#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>

#include "rlaif/working_ranks.h"
#include "trainer/distributed/communicator.h"

namespace pocketvlm {

/// The ranks of the job, which must outlive the result, all of them at work.
inline WorkingRanks working_ranks(Communicator& ranks) {
  WorkingRanks working;
  working.rank = ranks.rank();
  working.size = working.workers = ranks.size();
  working.gather = [&ranks](const std::string& text) { return ranks.gather_texts(text); };
  return working;
}

/// cpu, cuda, or, where several ranks compute on cuda, the device of this one's place on its machine.
inline std::string device_of_rank(const std::string& device, const Communicator* ranks) {
  const bool own = device == "cuda" && ranks != nullptr && ranks->size() > 1;
  return own ? fmt::format("cuda:{}", ranks->local_rank()) : device;
}

/// Watches the other ranks while it lives: one that dies, hangs or lags ends the job with its name.
class WatchedRanks {
 public:
  WatchedRanks(Communicator& ranks, double timeout_s, const std::string& phase) : ranks_(ranks) {
    ranks_.watch(timeout_s);
    ranks_.phase(phase);
  }
  // After an error the others go on being watched until the job is ended.
  ~WatchedRanks() {
    if (std::uncaught_exceptions() == 0) ranks_.stop_watching();
  }
  WatchedRanks(const WatchedRanks&) = delete;
  WatchedRanks& operator=(const WatchedRanks&) = delete;

 private:
  Communicator& ranks_;
};

}  // namespace pocketvlm
