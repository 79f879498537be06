#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "apps/mobile_request_queue.h"

namespace pocketvlm {
namespace {

void wait_until(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), limit);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(RequestQueue, LetsThemThroughOneByOneInTheirOrder) {
  RequestQueue queue(5);
  auto first = queue.enter();
  ASSERT_NE(first, nullptr);
  std::vector<int> order;
  int inside = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 5; ++i) {
    threads.emplace_back([&, i] {
      const auto turn = queue.enter();
      ASSERT_NE(turn, nullptr);
      EXPECT_EQ(++inside, 1);
      order.push_back(i);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      --inside;
    });
    wait_until([&] { return queue.waiting() == i + 1; });
  }
  first.reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, (std::vector{0, 1, 2, 3, 4}));
  EXPECT_EQ(queue.waiting(), 0);
}

TEST(RequestQueue, RefusesWhenTooManyWait) {
  RequestQueue none(0);
  auto turn = none.enter();
  ASSERT_NE(turn, nullptr);
  EXPECT_EQ(none.enter(), nullptr);
  turn.reset();
  EXPECT_NE(none.enter(), nullptr);

  RequestQueue one(1);
  turn = one.enter();
  std::thread waiter([&] { EXPECT_NE(one.enter(), nullptr); });
  wait_until([&] { return one.waiting() == 1; });
  EXPECT_EQ(one.enter(), nullptr);
  turn.reset();
  waiter.join();
}

TEST(RequestQueue, ClosingSendsAwayAllWhoWait) {
  RequestQueue queue(3);
  auto turn = queue.enter();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { EXPECT_EQ(queue.enter(), nullptr); });
  wait_until([&] { return queue.waiting() == 3; });
  queue.close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(queue.closed());
  turn.reset();
  EXPECT_EQ(queue.enter(), nullptr);
}

}  // namespace
}  // namespace pocketvlm
