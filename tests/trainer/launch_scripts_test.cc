#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/files.h"
#include "rank_processes.h"
#include "tiny_stage.h"
#include "trainer/state_files.h"

/// The scripts that start jobs, in a folder of their own.
namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// A folder with scripts/ and bin/, which stands first in PATH.
std::string place(const std::string& name) {
  const std::string folder = test::test_folder() + "/launch-" + name;
  make_folders(folder + "/bin");
  fs::copy(SOURCE_ROOT "/scripts", folder + "/scripts", fs::copy_options::recursive);
  return folder;
}

void add_program(const std::string& path, const std::string& body) {
  write_file_atomic(path, "#!/usr/bin/env bash\n" + body);
  fs::permissions(path, fs::perms::owner_all);
}

struct Outcome {
  int status;
  std::string output;
};

Outcome run(const std::string& folder, const std::string& environment, const std::string& command) {
  const std::string log = folder + "/log";
  const int status = std::system(
      fmt::format("cd {0} && PATH={0}/bin:$PATH OMP_NUM_THREADS=1 {1} {2} > {3} 2>&1", folder, environment, command, log).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(log)};
}

/// Says how it was called, and ends with the next of these statuses.
void add_fake(const std::string& folder, const std::string& name, const std::string& statuses) {
  write_file_atomic(folder + "/statuses", statuses);
  add_program(folder + "/bin/" + name,
              fmt::format("echo \"called: {0} $*\"\nread -r status rest < {1}/statuses\necho \"$rest\" > {1}/statuses\nexit \"$status\"\n",
                          name,
                          folder));
}

TEST(MpirunScript, StartsAgainWhatWasLostAndNothingElse) {
  const std::string folder = place("mpirun");
  add_program(folder + "/program", "exit 0\n");
  const auto start = [&](const std::string& statuses, const std::string& arguments) {
    add_fake(folder, "mpirun", statuses);
    return run(folder, "POCKETVLM=./program", "scripts/mpirun_stage.sh " + arguments);
  };
  const auto count = [](const std::string& text, const std::string& part) {
    int found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  };
  const Outcome stage = start("75 137 0", "4 stage.json --hostfile hosts --set steps=9");
  EXPECT_EQ(stage.status, 0) << stage.output;
  EXPECT_EQ(count(stage.output, "./program train stage.json --set steps=9 --resume\n"), 3) << stage.output;
  EXPECT_EQ(count(stage.output, " -n 4 --bind-to none --hostfile hosts"), 3) << stage.output;
  EXPECT_EQ(count(stage.output, "ended with status"), 2) << stage.output;

  EXPECT_EQ(count(start("0", "2 run recipe.json --run mine").output, "./program run recipe.json --run mine --resume\n"), 1);
  EXPECT_EQ(count(start("0", "2 rlaif loop.json").output, "./program rlaif loop.json --resume\n"), 1);
  EXPECT_EQ(count(start("0", "2 rlaif judge loop.json --folder x").output, "./program rlaif judge loop.json --folder x\n"), 1);
  for (const int status : {1, 2}) {
    const Outcome mistake = start(fmt::format("{} 0", status), "2 stage.json");
    EXPECT_EQ(mistake.status, status);
    EXPECT_EQ(count(mistake.output, "called"), 1) << mistake.output;
  }
  add_fake(folder, "mpirun", "75 75 75");
  const Outcome tired = run(folder, "POCKETVLM=./program POCKETVLM_MOST_RESTARTS=2", "scripts/mpirun_stage.sh 2 stage.json");
  EXPECT_EQ(tired.status, 1);
  EXPECT_EQ(count(tired.output, "called"), 2);
  EXPECT_NE(tired.output.find("gave up"), std::string::npos);

  EXPECT_NE(start("0", "").output.find("number of ranks"), std::string::npos);
  EXPECT_NE(start("0", "2").output.find("name a stage config, or train, run, rlaif or eval"), std::string::npos);
  EXPECT_NE(run(folder, "POCKETVLM=./none", "scripts/mpirun_stage.sh 2 stage.json").output.find("./none is not there"), std::string::npos);
}

TEST(SlurmScript, PutsALostJobBackIntoTheQueue) {
  const std::string folder = place("slurm");
  add_program(folder + "/program", "exit 0\n");
  add_program(folder + "/bin/scontrol", "echo \"scontrol: $*\"\n");
  const std::string environment = "POCKETVLM=./program SLURM_JOB_ID=7 SLURM_GPUS_ON_NODE=2 SLURM_CPUS_ON_NODE=4";
  const auto start = [&](const std::string& status, const std::string& arguments) {
    add_fake(folder, "srun", status);
    return run(folder, environment, "scripts/slurm_stage.sh " + arguments);
  };
  const Outcome lost = start("75", "run recipe.json");
  EXPECT_EQ(lost.status, 0);
  EXPECT_NE(lost.output.find("--ntasks-per-node=2 --cpus-per-task=2"), std::string::npos) << lost.output;
  EXPECT_NE(lost.output.find("./program run recipe.json --resume\n"), std::string::npos) << lost.output;
  EXPECT_NE(lost.output.find("scontrol: requeue 7\n"), std::string::npos) << lost.output;
  const Outcome mistake = start("1", "stage.json --set steps=9");
  EXPECT_EQ(mistake.status, 1);
  EXPECT_NE(mistake.output.find("./program train stage.json --set steps=9 --resume\n"), std::string::npos) << mistake.output;
  EXPECT_EQ(mistake.output.find("requeue"), std::string::npos) << mistake.output;
  EXPECT_NE(start("0", "stage.json").output.find("slurm_stage.sh: done"), std::string::npos);
}

TEST(MpirunScript, FinishesAStageOfWhichARankIsKilledAndALinkBreaks) {
  const std::string folder = place("killed"), broke = folder + "/link-broke";
  const Json stage = {{"task", "train"}, {"tokenizer", test::tiny_tokenizer_path()}, {"folder", folder + "/stage"}, {"steps", 150}, {"checkpoint_every", 5}};
  // The rank program ends with the statuses of the real one (exit_status in lost_rank.h).
  add_program(folder + "/program",
              fmt::format("[ \"$*\" = \"train stage.json --resume\" ] || exit 1\nexec {}/tests/rank_program '{}'\n", BINARY_ROOT, stage.dump()));
  Outcome outcome = {-1, {}};
  std::thread job([&] {
    outcome = run(folder,
                  fmt::format("POCKETVLM=./program LD_PRELOAD={}/tests/libfailing_mpi.so POCKETVLM_TEST_LINK_BROKE={}", BINARY_ROOT, broke),
                  "timeout 120 scripts/mpirun_stage.sh 2 stage.json");
  });
  // The link breaks in the first steps of the first start; of the second one a rank is killed behind its first state.
  bool killed = false;
  while (!fs::exists(folder + "/log")) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(100);
  while (!killed && std::chrono::steady_clock::now() < until && !fs::exists(folder + "/stage/result.json")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const bool again = read_file(folder + "/log").find("attempt 1 ended") != std::string::npos;
    if (!again || state_files::complete_steps(folder + "/stage/state").empty()) continue;
    const std::vector<pid_t> ranks = test::ranks_with(folder);
    killed = !ranks.empty() && ::kill(ranks.back(), SIGKILL) == 0;
  }
  job.join();
  EXPECT_TRUE(fs::exists(broke));
  EXPECT_TRUE(killed) << outcome.output;
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("MPI_Allgather failed"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("attempt 1 ended with status 75; continuing"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("attempt 2 ended with status"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("ranks: continues after step "), std::string::npos) << outcome.output;
  EXPECT_EQ(test::read_lines(folder + "/stage/metrics.jsonl").size(), 150U);
}

}  // namespace
}  // namespace pocketvlm
