#include "data/worker_pool.h"

namespace pocketvlm {

WorkerPool::WorkerPool(int threads) {
  try {
    for (int t = 0; t < threads; ++t) threads_.emplace_back([this] { work(); });
  } catch (...) {
    stop();
    throw;
  }
}

void WorkerPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void WorkerPool::add(Urgency urgency, const std::shared_ptr<Task>& task) {
  {
    const std::lock_guard lock(mutex_);
    waiting_[static_cast<int>(urgency)].push_back(task);
  }
  work_.notify_one();
}

void WorkerPool::wait_for(const Task& task) {
  std::unique_lock lock(mutex_);
  while (!task.done) {
    if (!run_one(lock)) finished_.wait(lock);
  }
}

/// Returns false when no task waits.
bool WorkerPool::run_one(std::unique_lock<std::mutex>& lock) {
  for (auto& waiting : waiting_) {
    if (waiting.empty()) continue;
    const std::shared_ptr<Task> task = waiting.front().lock();
    waiting.pop_front();
    if (task == nullptr) return true;
    lock.unlock();
    try {
      task->run();
    } catch (...) {
      task->failure = std::current_exception();
    }
    lock.lock();
    task->done = true;
    finished_.notify_all();
    return true;
  }
  return false;
}

void WorkerPool::work() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!run_one(lock)) work_.wait(lock);
  }
}

}  // namespace pocketvlm
