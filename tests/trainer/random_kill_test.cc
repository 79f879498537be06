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
#include "data/preprocess/image.h"
#include "rank_processes.h"
#include "tiny_stage.h"

/// Jobs of four ranks under each sharding, on drawn scenes and on large photographs, are killed at random moments, one rank at a time, and
/// started again until they are done.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// A step on scenes waits for data for moments. Photographs of ten million pixels take longer to decode than a step to compute, so that
/// most of it is loading.
struct Kind {
  const char* sharding;
  bool photographs;
};
constexpr Kind kKinds[] = {{"replicated", false}, {"optimizer", true}, {"full", false}, {"replicated", true}, {"optimizer", false}, {"full", true}};

/// Written once a process.
const std::string& photographs() {
  static const std::string path = [] {
    const std::string folder = test::test_folder() + "/photographs";
    make_folders(folder);
    std::string lines;
    for (int i = 0; i < 8; ++i) {
      Image picture(3600, 2800 + 8 * i);
      for (std::size_t at = 0; at < picture.rgb.size(); ++at) picture.rgb[at] = static_cast<uint8_t>(at / 97 * static_cast<std::size_t>(7 + i) + at % 61);
      write_file_atomic(fmt::format("{}/{}.jpg", folder, i), encode_jpeg(picture, 90));
      Json record = {{"id", std::to_string(i)}, {"image", fmt::format("{}.jpg", i)}};
      record["conversations"].push_back({{"from", "human"}, {"value", "<image>\nwhat?"}});
      record["conversations"].push_back({{"from", "gpt"}, {"value", "a dog"}});
      lines += record.dump() + "\n";
    }
    write_file_atomic(folder + "/data.jsonl", lines);
    return folder + "/data.jsonl";
  }();
  return path;
}

struct Job {
  std::string folder;
  Kind kind;
  std::string phases() const { return folder + ".phases"; }
  Json to_json() const {
    Json json = {{"task", "train"},
                 {"tokenizer", test::tiny_tokenizer_path()},
                 {"folder", folder},
                 {"phases", phases()},
                 {"sharding", kind.sharding},
                 {"workers", 2},
                 {"steps", kind.photographs ? 16 : 60},
                 {"checkpoint_every", 2}};
    if (kind.photographs) json["pictures"] = photographs();
    if (kind.photographs) json["pack_tokens"] = 64;  // they are sliced
    return json;
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

/// Where a stopped rank is. A state is written beside the steps, too.
std::string place_of(const Job& job, pid_t pid) {
  const std::string phase = phase_of(job, pid);
  if (phase.empty()) return "before the steps";
  if (fs::exists(job.folder + "/result.json")) return "after the steps";
  const bool loading = phase.starts_with("loading");
  bool writing = phase.starts_with("saving");
  std::error_code gone;  // folders come and go
  for (fs::directory_iterator entry(job.folder + "/state", gone), end; !gone && entry != end; entry.increment(gone)) {
    writing |= !fs::exists(entry->path() / "complete.json", gone);
  }
  if (writing) return loading ? "loading data beside a state that is written" : "writing a state";
  return loading ? "loading data" : "in a step";
}

/// Whether the process stands still now: what it said last is then what it is doing. False when it has gone.
bool stop(pid_t pid) {
  if (::kill(pid, SIGSTOP) != 0) return false;
  for (int i = 0; i < 1000; ++i) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const std::size_t name_end = text.rfind(") ");
    if (name_end == std::string::npos || text[name_end + 2] == 'Z' || text[name_end + 2] == 'X') return false;
    if (text[name_end + 2] == 'T') return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
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
  for (std::size_t k = 0; k < std::size(kKinds); ++k) {
    const Job whole = {fmt::format("{}/kill-whole-{}", test::test_folder(), k), kKinds[k]};
    times.push_back(run_whole(whole));
    expected.push_back(read_file(whole.folder + "/checkpoint/model.safetensors"));
  }
  Random random({20, 26});
  std::map<std::string, int> places;
  int killed = 0, finished = 0, loading = 0;
  for (; killed < kills; ++finished) {
    const std::size_t mode = static_cast<std::size_t>(finished) % std::size(kKinds);
    const Job job = {fmt::format("{}/kill-{}", test::test_folder(), finished), kKinds[mode]};
    int kills_left = (kills + 5) / 6;  // of one run, so that every kind has its turn
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
      const bool stopped = may && stop(victim);
      const std::string place = stopped ? place_of(job, victim) : std::string();
      const bool hit = stopped && ::kill(victim, SIGKILL) == 0;
      int status = 0;
      ::waitpid(pid, &status, 0);
      wait_until_gone(job.folder);
      if (hit) {
        ++killed;
        --kills_left;
        ++places[place];
        loading += place.starts_with("loading") ? 1 : 0;
      }
      if (status == 0 && fs::exists(job.folder + "/result.json")) break;
      ASSERT_TRUE(hit) << read_file(job.folder + ".log");
    }
    ASSERT_EQ(read_file(job.folder + "/checkpoint/model.safetensors"), expected[mode]) << finished << " after " << killed << " kills";
  }
  std::printf("%d kills over %d runs, all with the same bits; they fell:", killed, finished);
  for (const auto& [place, count] : places) std::printf(" %d %s;", count, place.c_str());
  std::printf("\n");
  if (kills >= 50) {  // of fewer none may
    EXPECT_GT(loading, 0);
  }
}

}  // namespace
}  // namespace pocketvlm
