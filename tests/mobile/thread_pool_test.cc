#include "mobile/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>

namespace pocketvlm {
namespace {

TEST(ThreadPool, EveryElementIsVisitedOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const std::int64_t count : {0, 1, 7, 64, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      pool.for_pieces(count, 16, [&](std::int64_t begin, std::int64_t end) {
        EXPECT_EQ(begin % 16, 0);
        EXPECT_LE(end - begin, 16);
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (const auto& times : seen) EXPECT_EQ(times.load(), 1);
    }
  }
}

TEST(ThreadPool, ManyShortLoopsFinish) {
  ThreadPool pool(3);
  std::atomic<std::int64_t> sum{0};
  for (int i = 0; i < 5000; ++i)
    pool.for_pieces(8, 1, [&](std::int64_t begin, std::int64_t) { sum += begin; });
  EXPECT_EQ(sum.load(), 5000 * 28);
}

TEST(ThreadPool, OnlyThreadsWithinTheLimitTakePart) {
  ThreadPool pool(4);
  EXPECT_EQ(pool.limit(), 4);
  for (const int limit : {2, 1, 4, 0, 99, 3}) {
    pool.limit(limit);
    EXPECT_EQ(pool.limit(), std::clamp(limit, 1, 4));
    std::mutex mutex;
    std::set<std::thread::id> seen;
    std::atomic<int> pieces{0};
    for (int loop = 0; loop < 20; ++loop) {
      pool.for_pieces(16, 1, [&](std::int64_t, std::int64_t) {
        ++pieces;
        std::this_thread::sleep_for(std::chrono::microseconds(50));  // so that others get a piece
        const std::lock_guard lock(mutex);
        seen.insert(std::this_thread::get_id());
      });
    }
    EXPECT_EQ(pieces.load(), 320);
    EXPECT_LE(static_cast<int>(seen.size()), pool.limit());
    EXPECT_EQ(seen.size() > 1, pool.limit() > 1) << limit;
  }
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  ThreadPool pool(3);
  for (int i = 0; i < 20; ++i) {
    EXPECT_THROW(pool.for_pieces(100,
                                 1,
                                 [](std::int64_t begin, std::int64_t) {
                                   if (begin == 50) throw std::runtime_error("x");
                                 }),
                 std::runtime_error);
    std::atomic<int> count{0};
    pool.for_pieces(10, 1, [&](std::int64_t, std::int64_t) { ++count; });
    EXPECT_EQ(count.load(), 10);
  }
}

}  // namespace
}  // namespace pocketvlm
