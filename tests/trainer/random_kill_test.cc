#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/files.h"
#include "base/random.h"
#include "tiny_stage.h"

/// A job of four ranks is killed at random moments, one rank at a time, and started again until it is done.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

Json job_in(const std::string& folder) {
  return {{"task", "train"},
          {"tokenizer", test::tiny_tokenizer_path()},
          {"folder", folder},
          {"sharding", "full"},
          {"steps", 60},
          {"checkpoint_every", 2}};
}

pid_t start(const std::string& folder) {
  const std::string job = job_in(folder).dump(), program = fmt::format("{}/tests/rank_program", BINARY_ROOT);
  const std::string log = folder + ".log";
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::setpgid(0, 0);
  if (std::freopen(log.c_str(), "w", stderr) == nullptr || std::freopen("/dev/null", "w", stdout) == nullptr) std::_Exit(126);
  ::setenv("OMP_NUM_THREADS", "1", 1);
  ::execlp("mpirun", "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "4", program.c_str(), job.c_str(), nullptr);
  std::_Exit(127);
}

/// The job's own ranks that are alive.
std::vector<pid_t> ranks_of(const std::string& folder) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string command((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const std::string program = command.substr(0, command.find('\0'));
    if (program.ends_with("/rank_program") && command.find("\"" + folder + "\"") != std::string::npos) found.push_back(std::stoi(name));
  }
  return found;
}

void wait_until_gone(const std::string& folder) {
  for (int i = 0; i < 1000; ++i) {
    const std::vector<pid_t> left = ranks_of(folder);
    if (left.empty()) return;
    if (i > 100) {
      for (const pid_t pid : left) ::kill(pid, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  FAIL() << "ranks of a killed job stay alive";
}

TEST(RandomKills, NeverChangeABit) {
  const char* wanted = std::getenv("POCKETVLM_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 12;
  const std::string whole = test::test_folder() + "/kill-whole";
  int status = 0;
  const auto begin = std::chrono::steady_clock::now();
  ::waitpid(start(whole), &status, 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  ASSERT_EQ(status, 0) << read_file(whole + ".log");
  const std::string expected = read_file(whole + "/checkpoint/model.safetensors");

  Random random({20, 26});
  int killed = 0, finished = 0;
  for (int run = 0; killed < kills; ++run) {
    const std::string folder = fmt::format("{}/kill-{}", test::test_folder(), run);
    while (true) {
      const pid_t job = start(folder);
      // Most of a job's time goes by before and after its steps; all moments are meant.
      std::this_thread::sleep_for(std::chrono::duration<double>(random.uniform(0.0, 1.1 * seconds)));
      const std::vector<pid_t> ranks = ranks_of(folder);
      const bool hit = killed < kills && !ranks.empty() && ::kill(random.pick(ranks), SIGKILL) == 0;
      ::waitpid(job, &status, 0);
      wait_until_gone(folder);
      if (hit) ++killed;
      if (status == 0) break;
      ASSERT_TRUE(hit) << read_file(folder + ".log");
    }
    ++finished;
    ASSERT_EQ(read_file(folder + "/checkpoint/model.safetensors"), expected) << "after " << killed << " kills";
  }
  std::printf("%d kills over %d runs of %.1f s each, all with the same bits\n", killed, finished, seconds);
}

}  // namespace
}  // namespace pocketvlm
