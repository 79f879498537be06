#pragma once

#include <torch/types.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace pocketvlm {

/// Runs what it is given on one thread of its own, one after the other, in the order in which it was given.
class TaskThread {
 public:
  using Task = std::function<torch::Tensor()>;

  TaskThread();
  ~TaskThread();  // when all is done that was given
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  /// The future holds what the task returns or throws.
  std::future<torch::Tensor> start(Task task);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable given_;
  std::deque<std::packaged_task<torch::Tensor()>> tasks_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace pocketvlm
