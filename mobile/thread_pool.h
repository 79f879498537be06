#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace pocketvlm {

/// A few threads that share loops. Between loops they spin a moment, since the next loop of a
/// decoding step usually follows within microseconds, and then sleep. A loop never waits for a
/// worker that has not begun: on a busy device the others do its part.
class ThreadPool {
 public:
  /// @param threads   workers including the caller; 0: one for each core this process may use
  /// @param fastest   the workers stay on the fastest cores, as many as there are threads; the caller places itself (OnCores)
  explicit ThreadPool(int threads, bool fastest = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Of these, only the first `threads` (at least 1) take part in the loops that follow; the others
  /// sleep. Not during a loop.
  void limit(int threads);
  int limit() const { return limit_.load(std::memory_order_relaxed); }

  /// On which the workers stay; empty: anywhere.
  const std::vector<int>& cores() const { return cores_; }

  /// Runs body(begin, end) over pieces of [0, count) of `piece` elements (the last one may be
  /// shorter), on all threads; returns when all are done. The pieces do not depend on the number of
  /// threads, so neither do results. An exception in a piece is rethrown here after the loop has
  /// ended. Not reentrant.
  void for_pieces(std::int64_t count,
                  std::int64_t piece,
                  const std::function<void(std::int64_t, std::int64_t)>& body);

 private:
  void work(int number);
  void run_pieces();

  std::vector<int> cores_;
  std::vector<std::thread> workers_;
  const std::function<void(std::int64_t, std::int64_t)>* body_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t piece_ = 1;
  std::atomic<std::int64_t> next_{0};
  std::atomic<std::uint32_t> generation_{0};  // grows with each loop; workers wait on it
  std::atomic<std::uint32_t> gate_{0};        // open bit, and how many workers are inside the loop
  std::atomic<int> limit_{1};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
};

}  // namespace pocketvlm
