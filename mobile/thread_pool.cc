#include "mobile/thread_pool.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "mobile/cores.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pocketvlm {
namespace {

// About 20 microseconds: longer than the serial parts of a decoding step, shorter than a scheduler
// quantum.
constexpr int kSpins = 2000;

constexpr std::uint32_t kOpen = 1U << 31;  // workers may still enter the loop

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads, bool fastest) {
  const int total = threads > 0 ? threads : usable_cores();
  if (fastest) {
    cores_ = cores_by_speed();
    cores_.resize(std::min(cores_.size(), static_cast<std::size_t>(total)));
  }
  limit_.store(total);
  for (int i = 1; i < total; ++i) workers_.emplace_back([this, i] { work(i); });
}

void ThreadPool::limit(int threads) {
  const int wanted = std::clamp(threads, 1, this->threads());
  if (limit_.exchange(wanted, std::memory_order_acq_rel) != wanted) limit_.notify_all();
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  limit(threads());
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_pieces() {
  try {
    while (true) {
      const std::int64_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
      if (begin >= count_) return;
      (*body_)(begin, std::min(begin + piece_, count_));
    }
  } catch (...) {
    if (!failed_.exchange(true)) failure_ = std::current_exception();
    next_.store(count_, std::memory_order_relaxed);
  }
}

void ThreadPool::work(int number) {
  const OnCores placed(cores_);
  std::uint32_t seen = 0;
  while (true) {
    // Those beyond the limit do not even spin: their cores are free for others, or rest.
    for (int limit = limit_.load(std::memory_order_acquire); number >= limit;
         limit = limit_.load(std::memory_order_acquire)) {
      limit_.wait(limit, std::memory_order_acquire);
    }
    wait_for_change(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (number >= limit_.load(std::memory_order_acquire)) continue;
    std::uint32_t gate = gate_.load(std::memory_order_acquire);
    while ((gate & kOpen) != 0) {
      if (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) continue;
      run_pieces();
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) gate_.notify_one();
      break;
    }
  }
}

void ThreadPool::for_pieces(std::int64_t count,
                            std::int64_t piece,
                            const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  if (workers_.empty() || limit() == 1 || count <= piece) {
    for (std::int64_t begin = 0; begin < count; begin += piece)
      body(begin, std::min(begin + piece, count));
    return;
  }
  body_ = &body;
  count_ = count;
  piece_ = piece;
  next_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  gate_.store(kOpen, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  run_pieces();
  gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (std::uint32_t left = gate_.load(std::memory_order_acquire); left != 0;
       left = gate_.load(std::memory_order_acquire)) {
    wait_for_change(gate_, left);
  }
  if (failed_.load()) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace pocketvlm
