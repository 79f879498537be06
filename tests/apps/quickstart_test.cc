#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "tests/apps/program.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

const std::string kRecipe = SOURCE_ROOT "/configs/recipes/quickstart.json";

std::string folder_of(const std::string& name) { return testing::TempDir() + "/quickstart_test/" + name; }

/// Arguments of a short walk through the whole recipe; with less than a tenth the judge cannot answer yes or no yet. So little
/// training leaves near ties, hence the wide bounds of the gate.
std::vector<std::string> arguments(const std::string& name, const std::string& scale) {
  std::vector<std::string> list = {program("pocketvlm"), "run", kRecipe, "--run", name, "--resume"};
  for (const std::string& field : {"scale=" + scale, "run_folder=" + testing::TempDir() + "/quickstart_test", std::string("exports.min_agreement_f16=0.9"),
                                   std::string("exports.min_agreement_q8_0=0.8"), std::string("exports.min_agreement_q4=0.5")}) {
    list.insert(list.end(), {"--set", field});
  }
  return list;
}

std::string joined(const std::vector<std::string>& list) {
  std::string line;
  for (const std::string& word : list) line += (line.empty() ? "'" : " '") + word + "'";
  return line;
}

TEST(Quickstart, WalksTheWholeWayAndThePhoneAnswers) {
  fs::remove_all(folder_of("whole"));
  const Outcome run = run_program(joined(arguments("whole", "0.1")));
  ASSERT_EQ(run.status, 0) << run.err;
  const std::string folder = folder_of("whole");
  const Json summary = read_json(folder + "/summary.json");
  EXPECT_EQ(summary["stages"].size(), 8U);
  for (const Json& stage : summary["stages"]) {
    for (const Json& component : stage["components"]) EXPECT_TRUE(component["frozen_identical"].get<bool>()) << stage.dump();
  }
  EXPECT_EQ(summary["exports"].size(), 4U);
  EXPECT_TRUE(summary["evaluation"].contains("aligned"));
  const std::string report = read_file(folder + "/report.html");
  EXPECT_GT(report.size(), 20000U);
  EXPECT_EQ(report.find("src=\"http"), std::string::npos);
  EXPECT_EQ(report.find(">nan"), std::string::npos);

  const fs::path picture = fs::directory_iterator(folder + "/gallery/images")->path();
  const Outcome chat = run_program(program("pocketvlm-mobile") + " chat --model " + folder + "/export/language-q4_0.gguf --mmproj " + folder +
                                   "/export/mmproj-f16.gguf --image " + picture.string() +
                                   " --prompt 'describe the picture in detail.' --greedy --max-new-tokens 24 --json");
  ASSERT_EQ(chat.status, 0) << chat.err;
  const Json answer = parse_json(chat.out, "chat");
  EXPECT_TRUE(answer["text"].is_string());
  EXPECT_TRUE(answer["ids"].is_array());
  EXPECT_TRUE(answer["timings"].is_object());

  const Outcome again = run_program(joined(arguments("whole", "0.1")));
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_LT(again.seconds, 30.0);
  std::vector<std::string> without = arguments("whole", "0.1");
  std::erase(without, "--resume");
  EXPECT_EQ(run_program(joined(without)).status, 1);
}

TEST(Photos, TheSamePathTakesRealPictures) {
  fs::remove_all(folder_of("photos"));
  const Outcome run = run_program("cd '" SOURCE_ROOT "' && '" + program("pocketvlm") +
                                  "' run configs/recipes/photos.json --run photos --set scale=0.2 --set exports.min_agreement_q8_0=0.5"
                                  " --set run_folder=" + testing::TempDir() + "/quickstart_test");
  ASSERT_EQ(run.status, 0) << run.err;
  const Json summary = read_json(folder_of("photos") + "/summary.json");
  EXPECT_EQ(summary["stages"].size(), 3U);
  EXPECT_GT(summary["stages"][1]["images_per_s"].get<double>(), 0);
  EXPECT_TRUE(fs::exists(folder_of("photos") + "/report.html"));
}

/// Paths of all files below a folder.
std::set<std::string> files_of(const std::string& folder) {
  std::set<std::string> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.insert(fs::relative(entry.path(), folder).string());
  }
  return paths;
}

TEST(Photos, TwoRanksGoTheSameWay) {
  for (const char* name : {"one-rank", "two-ranks"}) fs::remove_all(folder_of(name));
  const std::string recipe = "'" + program("pocketvlm") + "' run configs/recipes/photos.json --set scale=0.1 --set exports.min_agreement_q8_0=0.5"
                             " --set run_folder=" + testing::TempDir() + "/quickstart_test";
  // Packs of 1 x 2 and of 2 x 1; one stage divides its blocks.
  const std::string one = recipe + " --run one-rank --set stages.0.accumulation=2 --set stages.1.accumulation=2 --set stages.2.accumulation=2";
  const std::string two = "mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 " + recipe +
                          " --run two-ranks --set stages.2.distributed.sharding='\"full\"'";
  const std::string root = "cd '" SOURCE_ROOT "' && ";
  const Outcome alone = run_program(root + one), together = run_program(root + two);
  ASSERT_EQ(alone.status, 0) << alone.err;
  ASSERT_EQ(together.status, 0) << together.err;
  EXPECT_EQ(files_of(folder_of("two-ranks")), files_of(folder_of("one-rank")));
  const Json expected = read_json(folder_of("one-rank") + "/summary.json"), summary = read_json(folder_of("two-ranks") + "/summary.json");
  ASSERT_EQ(summary["stages"].size(), expected["stages"].size());
  for (std::size_t i = 0; i < summary["stages"].size(); ++i) {
    const Json &stage = summary["stages"][i], &other = expected["stages"][i];
    for (const char* key : {"samples", "steps", "packs_per_step"}) EXPECT_EQ(stage.at(key), other.at(key)) << key;
    for (const char* key : {"first_loss", "final_loss"}) {
      EXPECT_NEAR(stage[key].get<double>(), other[key].get<double>(), 0.02 * other[key].get<double>()) << key << " of stage " << i + 1;
    }
  }
  EXPECT_EQ(summary["evaluation"]["sft"].at("pictures"), expected["evaluation"]["sft"].at("pictures"));

  const Outcome claimed = run_program(root + two);
  EXPECT_NE(claimed.status, 0);
  EXPECT_NE((claimed.err + claimed.out).find("rank 0: "), std::string::npos) << claimed.err;
  EXPECT_NE((claimed.err + claimed.out).find("this run exists; continue it with --resume"), std::string::npos) << claimed.err;
  const Outcome again = run_program(root + two + " --resume");
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(files_of(folder_of("two-ranks")), files_of(folder_of("one-rank")));
}

/// Runs until `path` exists, then kills the whole process without warning.
void run_and_kill(const std::vector<std::string>& list, const std::string& path) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::vector<char*> argv;
    for (const std::string& word : list) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    ::freopen("/dev/null", "w", stderr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  for (int i = 0; i < 12000 && !fs::exists(path); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "ended before " << path;
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST(Quickstart, KilledInEveryStageItEndsWithTheSameBits) {
  for (const char* name : {"straight", "killed"}) fs::remove_all(folder_of(name));
  const Outcome straight = run_program(joined(arguments("straight", "0.1")));
  ASSERT_EQ(straight.status, 0) << straight.err;
  std::vector<std::string> places = {"tokenizer/tokenizer.model"};
  for (const auto& entry : fs::directory_iterator(folder_of("straight") + "/stages")) {
    places.push_back("stages/" + entry.path().filename().string() + "/metrics.jsonl");
  }
  std::sort(places.begin() + 1, places.end());
  for (const char* file : {"rollouts.jsonl", "verdicts.jsonl", "metrics.jsonl"}) places.push_back(std::string("alignment/") + file);
  places.emplace_back("export/parity-f16.json");
  for (const std::string& place : places) run_and_kill(arguments("killed", "0.1"), folder_of("killed") + "/" + place);
  const Outcome last = run_program(joined(arguments("killed", "0.1")));
  ASSERT_EQ(last.status, 0) << last.err;
  for (const char* file : {"alignment/pairs.jsonl", "alignment/checkpoint/model.safetensors", "export/language-q4_0.gguf"}) {
    EXPECT_EQ(read_file(folder_of("straight") + "/" + file), read_file(folder_of("killed") + "/" + file)) << file;
  }
}

}  // namespace
}  // namespace pocketvlm
