#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "rank_jobs.h"
#include "tiny_stage.h"
#include "trainer/distributed/lost_rank.h"

/// What ranks tell each other: of failures and of states, and how others continue those.
namespace pocketvlm {
namespace {

using test::folder_of;
using test::Outcome;
using test::relative;
using test::run_ranks;
using test::succeed;

TEST(Ranks, HearOfWhatFailedBesideThem) {
  const Outcome outcome = run_ranks(2, {{"task", "too-large"}});
  EXPECT_EQ(outcome.status, 1) << outcome.output;
  EXPECT_NE(outcome.output.find("8589934592 bytes from one rank to another in one message exceed MPI's limit; use more ranks; the sum is 2"),
            std::string::npos)
      << outcome.output;
}

TEST(Ranks, EndWithTheStatusOfARestartWhenACollectiveFails) {
  const std::string broke = test::test_folder() + "/link-broke";
  const Outcome outcome = run_ranks(
      2,
      {{"task", "train"}, {"folder", folder_of("broken-link")}, {"steps", 1000000}},
      fmt::format("LD_PRELOAD={}/tests/libfailing_mpi.so POCKETVLM_TEST_LINK_BROKE={}", BINARY_ROOT, broke));
  EXPECT_TRUE(std::filesystem::exists(broke));
  EXPECT_EQ(outcome.status, kLostRankStatus) << outcome.output;
  EXPECT_NE(outcome.output.find("rank 1: MPI_Allgather failed: MPI_ERR_OTHER"), std::string::npos) << outcome.output;
}

/// A stage of four packs a step that logs its samples and stops (`fault_rank` is killed) at step 5, behind its state of step 3.
Json four_packs(const std::string& name, const std::string& mode) {
  return {{"task", "train"},
          {"folder", folder_of(name)},
          {"steps", 8},
          {"checkpoint_every", 3},
          {"in_background", false},  // so that the state of step 3 is there at step 5, however slow the disk
          {"log_samples", true},
          {"fault", "kill"},
          {"fault_step", 5},
          {"sharding", mode}};
}

TEST(Ranks, ContinueAStateOnAnyNumberOfRanksWithTheSameSamplesInTheSameOrder) {
  Json alone = four_packs("whole", "replicated");
  alone["accumulation"] = 4;
  succeed(1, alone);
  const std::vector<Json> expected = test::read_lines(folder_of("whole") + "/metrics.jsonl");
  const std::vector<Json> samples = test::read_lines(folder_of("whole") + "/samples.jsonl");
  const auto weights = test::copy_weights(load_model(folder_of("whole") + "/checkpoint"));
  ASSERT_EQ(samples.size(), 8U);
  std::multiset<std::string> seen;
  for (const Json& line : samples) {
    ASSERT_EQ(line["packs"].size(), 4U);
    for (const Json& pack : line["packs"]) {
      EXPECT_FALSE(pack.empty());
      for (const Json& id : pack) {
        seen.insert(id.get<std::string>());
        EXPECT_LE(seen.count(id.get<std::string>()), 2U) << "both sources count their scenes from 0: " << id;
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), read_json(folder_of("whole") + "/result.json")["samples"].get<int64_t>());
  for (const char* mode : {"optimizer", "full"}) {
    Json begun = four_packs(std::string("begun-") + mode, mode);
    begun["fault_rank"] = 2;
    EXPECT_NE(run_ranks(4, begun).status, 0);
    ASSERT_FALSE(std::filesystem::exists(folder_of(std::string("begun-") + mode) + "/result.json"));
  }
  Json other = four_packs("begun-full", "full");
  other["accumulation"] = 3;
  const Outcome refused = run_ranks(2, other);
  EXPECT_NE(refused.output.find("was begun with 4 packs an optimizer step, which stay; accumulation 3 on 2 ranks would be 6"),
            std::string::npos)
      << refused.output;

  struct Continued {
    int ranks, accumulation;
    const char *before, *mode;
  };
  // With 3 ranks one has two packs of a step and the others one and an empty one; with 6 and 8 some have none.
  for (const Continued& now : {Continued{3, 1, "full", "full"},
                               Continued{2, 2, "optimizer", "replicated"},
                               Continued{1, 1, "full", "replicated"},
                               Continued{6, 1, "optimizer", "full"},
                               Continued{8, 1, "full", "optimizer"}}) {
    const std::string name = fmt::format("moved-{}-{}", now.ranks, now.mode);
    std::filesystem::copy(folder_of(std::string("begun-") + now.before), folder_of(name), std::filesystem::copy_options::recursive);
    Json job = four_packs(name, now.mode);
    job["accumulation"] = now.accumulation;
    succeed(now.ranks, job);
    EXPECT_EQ(test::read_lines(folder_of(name) + "/samples.jsonl"), samples) << name;
    const std::vector<Json> lines = test::read_lines(folder_of(name) + "/metrics.jsonl");
    ASSERT_EQ(lines.size(), expected.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      for (const char* key : {"loss", "grad_norm"}) {
        const double wanted = expected[i][key].get<double>();
        EXPECT_NEAR(lines[i][key].get<double>(), wanted, 1e-6 * wanted) << name << ": " << key << " of step " << i + 1;
      }
    }
    const auto result = test::copy_weights(load_model(folder_of(name) + "/checkpoint"));
    for (const auto& [key, weight] : weights) EXPECT_LT(relative(result.at(key), weight), 1e-6) << name << " " << key;
    EXPECT_EQ(read_json(folder_of(name) + "/result.json")["packs_per_step"], 4);
  }
}

TEST(Ranks, KilledTogetherEndWithTheSameBits) {
  const auto job = [&](const std::string& name) {
    return Json{{"task", "train"}, {"folder", folder_of(name)}, {"steps", 7}, {"checkpoint_every", 2}, {"sharding", "full"}};
  };
  succeed(2, job("at-once"));
  Json killed = job("killed");
  killed["fault"] = "kill";
  killed["fault_rank"] = 0;
  killed["fault_step"] = 5;
  EXPECT_NE(run_ranks(2, killed).status, 0);
  succeed(2, job("killed"));
  EXPECT_EQ(read_file(folder_of("at-once") + "/checkpoint/model.safetensors"),
            read_file(folder_of("killed") + "/checkpoint/model.safetensors"));
}

TEST(Ranks, AllTellOfAStateThatOneOfThemCannotWrite) {
  const std::string folder = folder_of("full-disk");
  const Outcome outcome = run_ranks(3,
                                    {{"task", "train"},
                                     {"folder", folder},
                                     {"steps", 1000000},
                                     {"checkpoint_every", 4},
                                     {"fault", "full-disk"},
                                     {"fault_rank", 1},
                                     {"fault_step", 6}});
  EXPECT_EQ(outcome.status, 1) << outcome.output;
  EXPECT_NE(outcome.output.find("step-000000008/rank-00001-of-00003.safetensors: writing failed"), std::string::npos)
      << outcome.output;
  EXPECT_NE(outcome.output.find("rank 0: "), std::string::npos) << outcome.output;
  EXPECT_TRUE(std::filesystem::exists(folder + "/state/step-000000004/complete.json"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/state/step-000000008/complete.json"));
}

TEST(Ranks, DropTheSameNumbersHoweverManyThereAre) {
  const auto losses = [&](int ranks, double dropout, const std::string& mode) {
    const std::string folder = folder_of(fmt::format("dropout-{}-{}-{}", ranks, dropout, mode));
    succeed(ranks,
            {{"task", "train"},
             {"folder", folder},
             {"steps", 5},
             {"accumulation", 2 / ranks},
             {"lora_dropout", dropout},
             {"trainable", {"projector.*"}},
             {"sharding", mode}});
    std::vector<double> found;
    for (const Json& line : test::read_lines(folder + "/metrics.jsonl")) found.push_back(line["loss"].get<double>());
    return found;
  };
  const std::vector<double> one = losses(1, 0.4, "replicated"), two = losses(2, 0.4, "optimizer"), none = losses(1, 0.0, "replicated");
  ASSERT_EQ(one.size(), 5U);
  ASSERT_EQ(two.size(), 5U);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(two[i], one[i], 1e-6 * one[i]);
  EXPECT_GT(std::abs(one[4] - none[4]), 1e-4 * one[4]);  // something was dropped
}

TEST(Ranks, RefuseAStepTogetherWhenOneOfThemFindsNoNumber) {
  const auto train = [&](const std::string& name, int rank, int allowed) {
    return run_ranks(2,
                     {{"task", "train"},
                      {"folder", folder_of(name)},
                      {"steps", 6},
                      {"max_bad_steps", allowed},
                      {"checkpoint_every", 2},
                      {"fault", "nan"},
                      {"fault_rank", rank},
                      {"fault_step", 3}});
  };
  const Outcome one = train("nan-one", 1, 1), all = train("nan-all", -1, 1);
  EXPECT_EQ(one.status, 0) << one.output;
  EXPECT_EQ(all.status, 0) << all.output;
  EXPECT_NE(one.output.find("step 4: the loss is nan"), std::string::npos) << one.output;
  EXPECT_EQ(read_file(folder_of("nan-one") + "/checkpoint/model.safetensors"), read_file(folder_of("nan-all") + "/checkpoint/model.safetensors"));
  const std::vector<Json> lines = test::read_lines(folder_of("nan-one") + "/metrics.jsonl");
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_EQ(lines[3]["skipped"], "the loss is nan");
  EXPECT_TRUE(std::isfinite(lines[5]["loss"].get<double>()));

  const Outcome stopped = train("nan-stops", 1, 0);
  EXPECT_EQ(stopped.status, 1) << stopped.output;
  EXPECT_NE(stopped.output.find("holds the last good state"), std::string::npos) << stopped.output;
  EXPECT_TRUE(std::filesystem::exists(folder_of("nan-stops") + "/state/step-000000002/complete.json"));
}

TEST(Ranks, FallBackTogetherFromAStateOfWhichOneFileIsDamaged) {
  Json job = {{"task", "train"}, {"steps", 7}, {"checkpoint_every", 2}, {"in_background", false}, {"sharding", "full"}};
  job["folder"] = folder_of("undamaged");
  succeed(2, job);
  job["folder"] = folder_of("damaged");
  Json killed = job;
  killed["fault"] = "kill";
  killed["fault_rank"] = 0;
  killed["fault_step"] = 5;
  EXPECT_NE(run_ranks(2, killed).status, 0);
  const std::string file = folder_of("damaged") + "/state/step-000000004/rank-00001-of-00002.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file_atomic(file, bytes);
  const Outcome resumed = run_ranks(2, job);
  EXPECT_EQ(resumed.status, 0) << resumed.output;
  EXPECT_NE(resumed.output.find(file + ": its bytes are not those that were written); falling back to that of step 2"), std::string::npos)
      << resumed.output;
  EXPECT_NE(resumed.output.find("continues after step 2"), std::string::npos) << resumed.output;
  EXPECT_EQ(read_file(folder_of("damaged") + "/checkpoint/model.safetensors"),
            read_file(folder_of("undamaged") + "/checkpoint/model.safetensors"));
}

TEST(Ranks, AllTellOfAFolderThatCannotBeMade) {
  const std::string file = folder_of("no-folder");
  write_file_atomic(file, "a file where a folder is wanted");
  const Outcome outcome = run_ranks(2, {{"task", "train"}, {"folder", file + "/runs/x"}});
  EXPECT_EQ(outcome.status, 1) << outcome.output;
  EXPECT_NE(outcome.output.find("rank 0: " + file), std::string::npos) << outcome.output;
}

TEST(Ranks, ContinueWhenThereIsRoomForTheCheckpointAgain) {
  Json job = {{"task", "train"}, {"steps", 3}, {"checkpoint_every", 2}};
  job["folder"] = folder_of("room");
  succeed(2, job);
  job["folder"] = folder_of("no-room");
  Json full = job;
  full["fault"] = "full-disk";
  full["fault_rank"] = 0;
  full["fault_step"] = 3;  // behind the last state: what is left to write is the checkpoint
  const Outcome outcome = run_ranks(2, full);
  EXPECT_EQ(outcome.status, 1) << outcome.output;
  EXPECT_NE(outcome.output.find("rank 0: "), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("model.safetensors: writing failed"), std::string::npos) << outcome.output;
  EXPECT_FALSE(std::filesystem::exists(folder_of("no-room") + "/checkpoint"));
  EXPECT_FALSE(std::filesystem::exists(folder_of("no-room") + "/result.json"));
  succeed(2, job);
  EXPECT_EQ(read_file(folder_of("no-room") + "/checkpoint/model.safetensors"), read_file(folder_of("room") + "/checkpoint/model.safetensors"));
}

TEST(Ranks, AreMissedByOneThatWaitsForItsDevice) {
  const Outcome outcome = run_ranks(2, {{"task", "device"}});
  EXPECT_EQ(outcome.status, kLostRankStatus) << outcome.output;
  EXPECT_NE(outcome.output.find("is too slow: rank 0 and perhaps others have waited for it for 2 s; it is loading data for step 9"),
            std::string::npos)
      << outcome.output;
}

struct Fault {
  const char* kind;
  const char* said;  // on standard error
};
class FaultyRank : public testing::TestWithParam<Fault> {};

TEST_P(FaultyRank, IsNamedAndEndsTheJob) {
  const Fault fault = GetParam();
  const Outcome outcome = run_ranks(3,
                                    {{"task", "train"},
                                     {"folder", folder_of(std::string("fault-") + fault.kind)},
                                     {"steps", 1000000},
                                     {"timeout_s", 2},
                                     {"fault", fault.kind},
                                     {"fault_rank", 1},
                                     {"fault_step", 3}});
  EXPECT_NE(outcome.status, 0);
  EXPECT_NE(outcome.status, 124) << "the job had to be ended by the test's own timeout";
  EXPECT_NE(outcome.output.find("rank 1"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find(fault.said), std::string::npos) << outcome.output;
}

// Of a killed rank mpirun itself may tell before the watchdog can.
INSTANTIATE_TEST_SUITE_P(By,
                         FaultyRank,
                         testing::Values(Fault{"kill", "rank 1"},
                                         Fault{"freeze", "has not been heard of for 2 s"},
                                         Fault{"slow", "is too slow"},
                                         Fault{"throw", "rank 1: this rank has had enough"}),
                         [](const auto& info) { return std::string(info.param.kind); });

}  // namespace
}  // namespace pocketvlm
