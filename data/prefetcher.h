#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <utility>

#include "data/worker_pool.h"

namespace pocketvlm {

/// Runs jobs in a pool, some way ahead of the reader, and hands the results out in the order of the
/// jobs: the reader sees the same sequence for any number of threads. Without threads, jobs run when
/// they are asked for. The pool must have stopped when the prefetcher goes.
template <typename Job, typename Result>
class Prefetcher {
 public:
  /// `next_job` is called from the reader's thread only, `run` from several threads at once.
  Prefetcher(WorkerPool& pool,
             std::function<Job()> next_job,
             std::function<Result(const Job&)> run)
      : pool_(pool), next_job_(std::move(next_job)), run_(std::move(run)) {}
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next result; an exception of the job is thrown here. `ahead`: results to have ready or
  /// under way beyond this one, which bounds the memory.
  Result next(std::size_t ahead) {
    const std::size_t wanted = pool_.has_threads() ? ahead + 1 : 1;
    while (issued_.size() < wanted) {
      issued_.push_back(pool_.start(WorkerPool::Urgency::kLater,
                                    [this, job = next_job_()] { return run_(job); }));
    }
    Pending<Result> first = std::move(issued_.front());
    issued_.pop_front();
    return first.get();
  }

  /// Forgets everything read ahead; jobs under way end unseen.
  void clear() { issued_.clear(); }

 private:
  WorkerPool& pool_;
  std::function<Job()> next_job_;
  std::function<Result(const Job&)> run_;
  std::deque<Pending<Result>> issued_;  // in order, not yet handed out
};

}  // namespace pocketvlm
