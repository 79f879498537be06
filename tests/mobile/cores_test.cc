#include "mobile/cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "mobile/session.h"
#include "mobile/thread_pool.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

/// Cores that the calling thread may run on.
std::vector<int> own_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

/// As Linux describes cores, with one file of each core.
std::string described(const std::string& file, const std::vector<std::string>& contents) {
  const std::string folder = temporary_folder();
  const std::vector<int> cores = own_cores();
  for (std::size_t i = 0; i < std::min(cores.size(), contents.size()); ++i) {
    const std::string path = folder + "/cpu" + std::to_string(cores[i]) + "/" + file;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    write_file_atomic(path, contents[i] + "\n");
  }
  return folder;
}

TEST(Cores, FastestComeFirst) {
  const std::vector<int> cores = own_cores();
  EXPECT_EQ(usable_cores(), static_cast<int>(cores.size()));
  EXPECT_EQ(cores_by_speed(temporary_folder()), cores);  // nothing is said of them
  if (cores.size() < 2) GTEST_SKIP() << "one core: nothing to order";
  const int slow = cores[0], fast = cores[1];
  EXPECT_EQ(cores_by_speed(described("cpu_capacity", {"430", "1024"})).front(), fast);
  EXPECT_EQ(cores_by_speed(described("cpufreq/cpuinfo_max_freq", {"1900000", "3300000"})).front(), fast);
  EXPECT_EQ(cores_by_speed(described("cpu_capacity", {"1024", "1024"})).front(), slow);
  // The faster one is the second thread of a core whose first may not be used.
  const std::string pair = std::to_string(fast + 1) + "-" + std::to_string(fast);
  EXPECT_EQ(cores_by_speed(described("topology/thread_siblings_list", {std::to_string(slow), pair})).back(), fast);
}

TEST(Cores, AThreadGoesBackWhereItWas) {
  const std::vector<int> before = own_cores();
  {
    const OnCores placed({before.back()});
    EXPECT_EQ(own_cores(), std::vector<int>{before.back()});
    { const OnCores nowhere({}); }
    { const OnCores impossible({CPU_SETSIZE - 1}); }
    EXPECT_EQ(own_cores(), std::vector<int>{before.back()});
  }
  EXPECT_EQ(own_cores(), before);
}

TEST(Cores, WorkersStayOnTheFastest) {
  const std::vector<int> before = own_cores();
  const ThreadPool anywhere(2);
  EXPECT_TRUE(anywhere.cores().empty());
  ThreadPool pool(2, true);
  std::vector<int> expected = cores_by_speed();
  expected.resize(std::min<std::size_t>(2, expected.size()));
  EXPECT_EQ(pool.cores(), expected);
  std::sort(expected.begin(), expected.end());
  std::mutex mutex;
  std::set<std::vector<int>> seen;
  for (int loop = 0; loop < 200 && seen.size() < 2; ++loop) {
    const OnCores placed(pool.cores());
    pool.for_pieces(64, 1, [&](std::int64_t, std::int64_t) {
      const std::lock_guard lock(mutex);
      seen.insert(own_cores());
    });
  }
  EXPECT_EQ(seen, std::set<std::vector<int>>{expected});
  EXPECT_EQ(own_cores(), before);
}

TEST(Cores, AnswersAreTheSameOnThem) {
  const TinyFiles files = write_tiny_model({});
  const std::vector<int> before = own_cores();
  SessionOptions options;
  options.threads = 1;
  Session anywhere(files.language, files.mmproj, options);
  options.affinity = "fastest";
  Session placed(files.language, files.mmproj, options);
  Chat chat;
  chat.turns = {{"user", "what is this"}};
  MobileSampling sampling;
  sampling.max_new_tokens = 5;
  EXPECT_EQ(placed.chat(chat, sampling).ids, anywhere.chat(chat, sampling).ids);
  EXPECT_EQ(own_cores(), before);  // an app's thread is not kept there
  options.affinity = "slowest";
  EXPECT_THROW(Session(files.language, files.mmproj, options), Error);
}

}  // namespace
}  // namespace pocketvlm
