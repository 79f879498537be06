#include "trainer/distributed/task_thread.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "tiny_stage.h"

namespace pocketvlm {
namespace {

TEST(TaskThread, RunsTasksInOrderOnOneThreadThatIsNotTheCallers) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  std::vector<std::future<torch::Tensor>> results;
  TaskThread thread;
  for (int i = 0; i < 50; ++i) {
    results.push_back(thread.start([&, i] {
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
      return torch::full({}, i);
    }));
  }
  for (int i = 0; i < 50; ++i) EXPECT_EQ(results[static_cast<std::size_t>(i)].get().item<int>(), i);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(threads[static_cast<std::size_t>(i)], threads[0]);
  }
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(TaskThread, HandsErrorsToWhoWaitsAndGoesOn) {
  TaskThread thread;
  auto failing = thread.start([]() -> torch::Tensor { fail("no wire"); });
  auto next = thread.start([] { return torch::ones({}); });
  EXPECT_EQ(next.get().item<float>(), 1);
  EXPECT_EQ(test::error_of([&] { failing.get(); }), "no wire");
}

TEST(TaskThread, FinishesWhatNobodyWaitsForAndFreesWhatTasksHeld) {
  int done = 0;
  const auto held = std::make_shared<int>(0);
  {
    TaskThread thread;
    for (int i = 0; i < 20; ++i) {
      thread.start([&done, held] {
        ++done;
        return torch::Tensor();
      });
    }
  }
  EXPECT_EQ(done, 20);
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace pocketvlm
