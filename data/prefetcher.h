#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace pocketvlm {

/// Runs jobs on threads, some way ahead of the reader, and hands the results out in the order of
/// the jobs: the reader sees the same sequence for any number of threads. With none, jobs run in
/// the reader's thread when they are asked for. A reader that has to wait runs waiting jobs itself.
template <typename Job, typename Result>
class Prefetcher {
 public:
  /// `next_job` is called from the reader's thread only, `run` from several threads at once.
  Prefetcher(int threads, std::function<Job()> next_job, std::function<Result(const Job&)> run)
      : next_job_(std::move(next_job)), run_(std::move(run)) {
    try {
      for (int t = 0; t < threads; ++t) threads_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;
  ~Prefetcher() { stop(); }

  /// The next result; an exception of the job is thrown here. `ahead`: results to have ready or
  /// under way beyond this one, which bounds the memory.
  Result next(std::size_t ahead) {
    std::unique_lock lock(mutex_);
    issue(threads_.empty() ? 1 : ahead + 1);
    const std::shared_ptr<Task> task = issued_.front();
    while (!task->done) {
      if (waiting_.empty()) {
        finished_.wait(lock);
      } else {
        run_one(lock);
      }
    }
    issued_.pop_front();
    lock.unlock();
    if (task->failure) std::rethrow_exception(task->failure);
    return std::move(*task->result);
  }

  /// Forgets everything read ahead; jobs under way end unseen.
  void clear() {
    const std::lock_guard lock(mutex_);
    waiting_.clear();
    issued_.clear();
  }

 private:
  struct Task {
    Job job;
    bool done = false;
    std::unique_ptr<Result> result;
    std::exception_ptr failure;
  };

  void issue(std::size_t wanted) {
    bool added = false;
    for (; issued_.size() < wanted; added = true) {
      issued_.push_back(std::make_shared<Task>(Task{next_job_(), false, nullptr, nullptr}));
      waiting_.push_back(issued_.back());
    }
    if (added) work_.notify_all();
  }

  void run_one(std::unique_lock<std::mutex>& lock) {
    const std::shared_ptr<Task> task = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    try {
      task->result = std::make_unique<Result>(run_(task->job));
    } catch (...) {
      task->failure = std::current_exception();
    }
    lock.lock();
    task->done = true;
    finished_.notify_all();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (waiting_.empty()) {
        work_.wait(lock);
      } else {
        run_one(lock);
      }
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::function<Job()> next_job_;
  std::function<Result(const Job&)> run_;
  std::mutex mutex_;
  std::condition_variable work_, finished_;
  std::deque<std::shared_ptr<Task>> issued_;   // in order, not yet handed out
  std::deque<std::shared_ptr<Task>> waiting_;  // those of them that nobody has begun
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pocketvlm
