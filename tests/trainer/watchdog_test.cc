#include "trainer/distributed/watchdog.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>

#include "tiny_stage.h"

namespace pocketvlm {
namespace {

using std::chrono::milliseconds;

void sleep_for(milliseconds time) { std::this_thread::sleep_for(time); }

bool comes_true(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) sleep_for(milliseconds(10));
  return condition();
}

/// Another process, which only does this.
class Child {
 public:
  explicit Child(const std::function<void()>& work) : pid_(::fork()) {
    if (pid_ != 0) return;
    work();
    ::_exit(0);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void kill() const { ::kill(pid_, SIGKILL); }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

TEST(Watchdog, ReadsAllAddressesOfAText) {
  EXPECT_EQ(Watchdog::addresses("10.0.0.1,172.17.0.1:4567"), (std::vector<std::string>{"10.0.0.1:4567", "172.17.0.1:4567"}));
  EXPECT_EQ(Watchdog::addresses("127.0.0.1:80"), (std::vector<std::string>{"127.0.0.1:80"}));
  EXPECT_TRUE(Watchdog::addresses("").empty());
  EXPECT_TRUE(Watchdog::addresses("10.0.0.1").empty());
  std::string own;
  ::close(Watchdog::listen(own));
  EXPECT_FALSE(Watchdog::addresses(own).empty()) << own;
}

TEST(Watchdog, SaysWhichRankHasDiedAndWhatItDid) {
  std::string address;
  const int listener = Watchdog::listen(address);
  // Nobody can be reached at the first address, as at that of a bridge for containers on another machine.
  const std::string port = address.substr(address.rfind(':'));
  const Child child([&] {
    ::close(listener);
    Watchdog other(1, 2, 30, -1, "255.255.255.255,127.0.0.1" + port, [] {});
    other.phase("loading data for step 3");
    sleep_for(milliseconds(60000));
  });
  testing::internal::CaptureStderr();
  std::atomic<bool> ended{false};
  {
    Watchdog first(0, 2, 30, listener, address, [&] { ended = true; });
    sleep_for(milliseconds(1500));  // several reports
    EXPECT_FALSE(ended);
    child.kill();
    EXPECT_TRUE(comes_true([&] { return ended.load(); }));
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find(fmt::format("pocketvlm: rank 1 (process {} on ", child.pid())), std::string::npos) << said;
  EXPECT_NE(said.find("has died; it was last seen loading data for step 3; the job is ended\n"), std::string::npos) << said;
}

TEST(Watchdog, OfOthersTellsThatRankZeroIsGone) {
  std::string address;
  const int listener = Watchdog::listen(address);
  const Child child([&] {
    Watchdog first(0, 2, 30, listener, address, [] {});
    sleep_for(milliseconds(60000));
  });
  ::close(listener);
  testing::internal::CaptureStderr();
  std::atomic<bool> ended{false};
  {
    Watchdog other(1, 2, 30, -1, address, [&] { ended = true; });
    sleep_for(milliseconds(700));
    EXPECT_FALSE(ended);
    child.kill();
    EXPECT_TRUE(comes_true([&] { return ended.load(); }));
  }
  EXPECT_NE(testing::internal::GetCapturedStderr().find("rank 1: rank 0 has died or can no longer be reached"), std::string::npos);
}

/// Two ranks in this process: `other` arrives or not while the first one waits.
TEST(Watchdog, CountsEveryWaitOfARankUntilAllAreOver) {
  std::string address;
  const int listener = Watchdog::listen(address);
  testing::internal::CaptureStderr();
  std::atomic<bool> ended{false};
  {
    Watchdog first(0, 2, 1, listener, address, [&] { ended = true; });
    Watchdog other(1, 2, 1, -1, address, [] {});
    other.phase("loading data for step 7");
    // One wait within another: the inner one is over, the outer one is not.
    first.arrive();
    first.arrive();
    other.arrive();
    first.leave();
    EXPECT_TRUE(comes_true([&] { return ended.load(); }));
    other.finish();
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("is too slow: rank 0 and perhaps others have waited for it for 1 s; it is loading data for step 7"), std::string::npos)
      << said;
}

TEST(Watchdog, SaysThatNobodyAnswersAtAnyAddress) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  { const Watchdog other(1, 2, 30, -1, "255.255.255.255,127.0.0.1:1", [] {}); }
  const std::string said = testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("cannot be reached at 255.255.255.255,127.0.0.1:1"), std::string::npos) << said;
}

}  // namespace
}  // namespace pocketvlm
