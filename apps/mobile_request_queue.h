#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

namespace pocketvlm {

/// Lets one caller at a time through, in the order in which they came; a limited number may wait.
/// All functions may be called from any thread.
class RequestQueue {
 public:
  /// `max_waiting`: callers that may wait beside the one that is through; 0 or more.
  explicit RequestQueue(int max_waiting);

  /// Being through; its end lets the next one through. Must not outlive the queue.
  class Turn {
   public:
    explicit Turn(RequestQueue& queue) : queue_(queue) {}
    ~Turn() { queue_.leave(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    RequestQueue& queue_;
  };

  /// Waits. Null at once when too many wait, and for all who wait when the queue is closed.
  std::unique_ptr<Turn> enter();

  /// From now on nobody gets through.
  void close();
  bool closed() const;
  int waiting() const;

 private:
  void leave();

  const std::size_t max_waiting_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::uint64_t> line_;  // numbers of those who wait
  std::uint64_t next_number_ = 0;
  bool taken_ = false;
  bool closed_ = false;
};

}  // namespace pocketvlm
