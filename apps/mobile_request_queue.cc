#include "apps/mobile_request_queue.h"

#include <algorithm>

namespace pocketvlm {

RequestQueue::RequestQueue(int max_waiting) : max_waiting_(static_cast<std::size_t>(max_waiting)) {}

std::unique_ptr<RequestQueue::Turn> RequestQueue::enter() {
  std::unique_lock lock(mutex_);
  const bool free = !taken_ && line_.empty();
  if (closed_ || (!free && line_.size() >= max_waiting_)) return nullptr;
  const std::uint64_t number = next_number_++;
  line_.push_back(number);
  changed_.wait(lock, [&] { return closed_ || (!taken_ && line_.front() == number); });
  line_.erase(std::find(line_.begin(), line_.end(), number));
  if (closed_) return nullptr;
  taken_ = true;
  return std::make_unique<Turn>(*this);
}

void RequestQueue::leave() {
  {
    const std::lock_guard lock(mutex_);
    taken_ = false;
  }
  changed_.notify_all();
}

void RequestQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

bool RequestQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

int RequestQueue::waiting() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(line_.size());
}

}  // namespace pocketvlm
