#include "trainer/distributed/task_thread.h"

#include <utility>

namespace pocketvlm {

TaskThread::TaskThread() : thread_([this] { work(); }) {}

TaskThread::~TaskThread() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  given_.notify_one();
  thread_.join();
}

std::future<torch::Tensor> TaskThread::start(Task task) {
  std::packaged_task<torch::Tensor()> packaged(std::move(task));
  std::future<torch::Tensor> result = packaged.get_future();
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(packaged));
  }
  given_.notify_one();
  return result;
}

void TaskThread::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    given_.wait(lock, [this] { return ended_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    {
      std::packaged_task<torch::Tensor()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }  // what the task held is freed outside the lock
    lock.lock();
  }
}

}  // namespace pocketvlm
