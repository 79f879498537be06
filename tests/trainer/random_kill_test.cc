#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

#include "base/files.h"
#include "base/random.h"
#include "rank_processes.h"
#include "tiny_stage.h"

/// Jobs of four ranks under each sharding are killed at random moments, one rank at a time, and started again until they are done.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShardings[] = {"replicated", "optimizer", "full"};

struct Job {
  std::string folder, sharding;
  std::string phases() const { return folder + ".phases"; }
  Json to_json() const {
    return {{"task", "train"},
            {"tokenizer", test::tiny_tokenizer_path()},
            {"folder", folder},
            {"phases", phases()},
            {"sharding", sharding},
            {"workers", 2},
            {"steps", 60},
            {"checkpoint_every", 2}};
  }
};

pid_t start(const Job& started) {
  make_folders(started.phases());
  const std::string job = started.to_json().dump(), program = fmt::format("{}/tests/rank_program", BINARY_ROOT);
  const std::string log = started.folder + ".log";
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::setpgid(0, 0);
  if (std::freopen(log.c_str(), "w", stderr) == nullptr || std::freopen("/dev/null", "w", stdout) == nullptr) std::_Exit(126);
  ::setenv("OMP_NUM_THREADS", "1", 1);
  ::execlp("mpirun", "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "4", program.c_str(), job.c_str(), nullptr);
  std::_Exit(127);
}

void wait_until_gone(const std::string& folder) {
  for (int i = 0; i < 1000; ++i) {
    const std::vector<pid_t> left = test::ranks_with("\"" + folder + "\"");
    if (left.empty()) return;
    if (i > 100) {
      for (const pid_t pid : left) ::kill(pid, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  FAIL() << "ranks of a killed job stay alive";
}

/// What a rank says it is doing; empty before it has said anything.
std::string phase_of(const Job& job, pid_t pid) {
  std::ifstream file(fmt::format("{}/{}", job.phases(), pid));
  std::string line;
  std::getline(file, line);
  return line;
}

/// Where a kill falls. A state is written beside the steps, too.
std::string place_of(const Job& job, pid_t pid) {
  const std::string phase = phase_of(job, pid);
  if (phase.empty()) return "before the steps";
  if (fs::exists(job.folder + "/result.json")) return "after the steps";
  bool writing = phase.starts_with("saving");
  std::error_code gone;  // folders come and go
  for (fs::directory_iterator entry(job.folder + "/state", gone), end; !gone && entry != end; entry.increment(gone)) {
    writing |= !fs::exists(entry->path() / "complete.json", gone);
  }
  if (writing) return "writing a state";
  return phase.starts_with("loading") ? "loading" : "in a step";
}

/// Seconds until a rank of the job says that it has begun with its steps, and until the job ends.
struct Times {
  double begin = 0, end = 0;
};

Times run_whole(const Job& job) {
  Times times;
  const auto begin = std::chrono::steady_clock::now();
  const auto now = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const pid_t pid = start(job);
  int status = -1;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (times.begin == 0 && !fs::is_empty(job.phases())) times.begin = now();
  }
  times.end = now();
  EXPECT_EQ(status, 0) << read_file(job.folder + ".log");
  return times;
}

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

TEST(RandomKills, NeverChangeABit) {
  const char* wanted = std::getenv("POCKETVLM_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 12;
  std::vector<std::string> expected;
  std::vector<Times> times;
  for (const char* sharding : kShardings) {
    const Job whole = {fmt::format("{}/kill-whole-{}", test::test_folder(), sharding), sharding};
    times.push_back(run_whole(whole));
    expected.push_back(read_file(whole.folder + "/checkpoint/model.safetensors"));
  }
  Random random({20, 26});
  std::map<std::string, int> places;
  int killed = 0, finished = 0;
  for (; killed < kills; ++finished) {
    const std::size_t mode = static_cast<std::size_t>(finished) % std::size(kShardings);
    const Job job = {fmt::format("{}/kill-{}", test::test_folder(), finished), kShardings[mode]};
    int kills_left = (kills + 2) / 3;  // of one run, so that every sharding has its turn
    while (true) {
      fs::remove_all(job.phases());
      const pid_t pid = start(job);
      // Most of a job's time goes by before and after its steps; all moments are meant, and every second kill falls among the steps.
      double wait = random.uniform(0.0, 1.1 * times[mode].end);
      if (killed % 2 == 1) {
        while (fs::is_empty(job.phases()) && ::kill(pid, 0) == 0 && ::waitpid(pid, nullptr, WNOHANG) == 0) sleep_for(0.005);
        wait = random.uniform(0.0, 0.8) * (times[mode].end - times[mode].begin);
      }
      sleep_for(wait);
      const std::vector<pid_t> ranks = test::ranks_with("\"" + job.folder + "\"");
      const pid_t victim = ranks.empty() ? 0 : random.pick(ranks);
      const bool may = killed < kills && kills_left > 0 && victim != 0;
      const std::string place = may ? place_of(job, victim) : std::string();
      const bool hit = may && ::kill(victim, SIGKILL) == 0;
      int status = 0;
      ::waitpid(pid, &status, 0);
      wait_until_gone(job.folder);
      if (hit) {
        ++killed;
        --kills_left;
        ++places[place];
      }
      if (status == 0 && fs::exists(job.folder + "/result.json")) break;
      ASSERT_TRUE(hit) << read_file(job.folder + ".log");
    }
    ASSERT_EQ(read_file(job.folder + "/checkpoint/model.safetensors"), expected[mode]) << job.sharding << " after " << killed << " kills";
  }
  std::printf("%d kills over %d runs, all with the same bits; they fell:", killed, finished);
  for (const auto& [place, count] : places) std::printf(" %d %s;", count, place.c_str());
  std::printf("\n");
}

}  // namespace
}  // namespace pocketvlm
