#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace pocketvlm {

template <typename Result>
class Pending;

/// Threads that run tasks: urgent ones first, each kind in the order in which it came. Without
/// threads, tasks run in the thread that waits for a result. A task whose Pending is gone is not
/// begun.
class WorkerPool {
 public:
  enum class Urgency { kSoon, kLater };

  explicit WorkerPool(int threads);
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  ~WorkerPool() { stop(); }

  bool has_threads() const { return !threads_.empty(); }

  template <typename Work>
  Pending<std::invoke_result_t<Work>> start(Urgency urgency, Work work);

  /// Begins nothing more and returns when the tasks under way have ended.
  void stop();

 private:
  template <typename Result>
  friend class Pending;

  struct Task {
    virtual ~Task() = default;
    virtual void run() = 0;
    bool done = false;
    std::exception_ptr failure;
  };
  template <typename Result>
  struct TaskWithResult : Task {
    std::optional<Result> result;
  };

  void add(Urgency urgency, const std::shared_ptr<Task>& task);
  void wait_for(const Task& task);
  bool run_one(std::unique_lock<std::mutex>& lock);
  void work();

  std::mutex mutex_;
  std::condition_variable work_, finished_;
  std::deque<std::weak_ptr<Task>> waiting_[2];  // by urgency
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

/// The result of a task that a WorkerPool runs.
template <typename Result>
class Pending {
 public:
  /// Waits, and helps with waiting tasks meanwhile; an exception of the task is thrown here. Once.
  Result get() {
    const auto task = std::move(task_);
    pool_->wait_for(*task);
    if (task->failure) std::rethrow_exception(task->failure);
    return std::move(*task->result);
  }

 private:
  friend class WorkerPool;
  using Task = WorkerPool::TaskWithResult<Result>;
  Pending(WorkerPool& pool, std::shared_ptr<Task> task) : pool_(&pool), task_(std::move(task)) {}

  WorkerPool* pool_;
  std::shared_ptr<Task> task_;
};

template <typename Work>
Pending<std::invoke_result_t<Work>> WorkerPool::start(Urgency urgency, Work work) {
  using Result = std::invoke_result_t<Work>;
  struct Running : TaskWithResult<Result> {
    explicit Running(Work&& w) : work(std::move(w)) {}
    void run() override { this->result.emplace(work()); }
    Work work;
  };
  auto task = std::make_shared<Running>(std::move(work));
  add(urgency, task);
  return Pending<Result>(*this, std::move(task));
}

}  // namespace pocketvlm
