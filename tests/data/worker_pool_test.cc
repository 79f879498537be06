#include "data/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <string>

#include "data/prefetcher.h"

namespace pocketvlm {
namespace {

using Urgency = WorkerPool::Urgency;

TEST(WorkerPool, WithoutThreadsTheOneWhoWaitsRunsUrgentTasksFirst) {
  WorkerPool pool(0);
  std::string order;
  const auto note = [&order](char letter) {
    return [&order, letter] { return order += letter; };
  };
  auto a = pool.start(Urgency::kLater, note('a'));
  auto b = pool.start(Urgency::kLater, note('b'));
  auto c = pool.start(Urgency::kSoon, note('c'));
  auto d = pool.start(Urgency::kSoon, note('d'));
  EXPECT_EQ(order, "");
  EXPECT_EQ(a.get(), "cda");
  EXPECT_EQ(d.get(), "cd");
  EXPECT_EQ(b.get(), "cdab");
}

TEST(WorkerPool, DoesNotBeginWhatNobodyWaitsFor) {
  WorkerPool pool(0);
  int runs = 0;
  const auto count = [&runs] { return ++runs; };
  { const auto dropped = pool.start(Urgency::kSoon, count); }
  EXPECT_EQ(pool.start(Urgency::kLater, count).get(), 1);
}

TEST(WorkerPool, ThrowsWhatATaskThrewWhereItsResultIsAskedFor) {
  for (const int threads : {0, 2}) {
    WorkerPool pool(threads);
    auto bad = pool.start(Urgency::kSoon, []() -> int { throw std::logic_error("a fault"); });
    auto good = pool.start(Urgency::kSoon, [] { return 7; });
    EXPECT_EQ(good.get(), 7);
    EXPECT_THROW(bad.get(), std::logic_error);
  }
}

TEST(WorkerPool, RunsTasksBesideTheOneWhoStartsThem) {
  WorkerPool pool(1);
  std::promise<void> open;
  auto opened = open.get_future();
  auto task = pool.start(Urgency::kSoon, [&open] {
    open.set_value();
    return 1;
  });
  opened.wait();  // nobody has asked for the result
  EXPECT_EQ(task.get(), 1);
}

TEST(WorkerPool, StopsAfterTheTasksUnderWayAndBeforeTheWaitingOnes) {
  std::atomic<int> begun{0};
  std::promise<void> started;
  WorkerPool pool(1);
  auto running = pool.start(Urgency::kSoon, [&] {
    ++begun;
    started.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return 0;
  });
  auto waiting = pool.start(Urgency::kSoon, [&] { return ++begun; });
  started.get_future().wait();
  pool.stop();
  EXPECT_EQ(begun, 1);
}

TEST(Prefetcher, HandsResultsOutInTheOrderOfTheJobs) {
  for (const int threads : {0, 1, 5}) {
    int job = 0;
    WorkerPool pool(threads);
    Prefetcher<int, int> squares(pool, [&job] { return job++; }, [](const int& n) { return n * n; });
    for (int i = 0; i < 100; ++i) EXPECT_EQ(squares.next(10), i * i);
    EXPECT_EQ(job, threads == 0 ? 100 : 110);
    squares.clear();
    pool.stop();
  }
}

}  // namespace
}  // namespace pocketvlm
