#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/safetensors.h"
#include "model/initialization.h"
#include "tiny_stage.h"
#include "trainer/distributed/lost_rank.h"
#include "trainer/state_store.h"

/// Starts jobs of several processes (rank_program) with mpirun and compares what they leave behind.
namespace pocketvlm {
namespace {

struct Outcome {
  int status;
  std::string output;
};

std::string folder_of(const std::string& name) { return test::test_folder() + "/ranks-" + name; }

/// `environment`: assignments of the shell, before mpirun.
Outcome run_ranks(int ranks, Json job, const std::string& environment = {}) {
  job["tokenizer"] = test::tiny_tokenizer_path();
  const std::string log = test::test_folder() + "/ranks.log";
  // One core is enough for a test; in a container the processes belong to root.
  const std::string command =
      fmt::format("OMP_NUM_THREADS=1 {} timeout 300 mpirun --allow-run-as-root --oversubscribe --bind-to none -n {} {}/tests/rank_program '{}' > {} 2>&1",
                  environment,
                  ranks,
                  BINARY_ROOT,
                  job.dump(),
                  log);
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(log)};
}

void succeed(int ranks, const Json& job) {
  const Outcome outcome = run_ranks(ranks, job);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
}

std::map<std::string, torch::Tensor> gradients(int ranks, Json job, const std::string& name) {
  job["task"] = "gradients";
  job["folder"] = folder_of(name);
  succeed(ranks, job);
  std::map<std::string, torch::Tensor> result;
  std::vector<TensorSlice> slices;
  StateStore::Tensors tensors;
  for (const auto& item : VisionLanguageModel(test::tiny_model_config(), 1)->named_parameters()) {
    result[item.key()] = torch::zeros_like(item.value()).detach();
    slices.push_back(whole_tensor(item.key(), result[item.key()]));
    tensors.emplace_back(item.key(), slices.back().shape);
  }
  StateStore(job["folder"].get<std::string>()).restore_weights(1, slices, tensors);
  return result;
}

/// `floor`: what counts as a size at all. The gradient of a key's bias is zero but for rounding, in every order of sums.
double relative(const torch::Tensor& a, const torch::Tensor& b, double floor) {
  return (a - b).norm().item<double>() / std::max(floor, b.norm().item<double>());
}
double relative(const torch::Tensor& a, const torch::Tensor& b) { return relative(a, b, 1e-2); }

class EverySharding : public testing::TestWithParam<const char*> {};

TEST_P(EverySharding, GivesTheGradientsOfOneProcess) {
  const std::string mode = GetParam();
  const auto one = gradients(1, {{"accumulation", 4}}, "gradients-1-" + mode);
  double square = 0;
  for (const auto& [name, gradient] : one) square += gradient.square().sum().item<double>();
  for (const int ranks : {1, 2, 4}) {
    const auto many = gradients(ranks,
                                {{"accumulation", 4 / ranks}, {"sharding", mode}},
                                fmt::format("gradients-{}-of-{}", mode, ranks));
    for (const auto& [name, gradient] : one) {
      EXPECT_GT(gradient.norm().item<double>(), 0) << name;
      EXPECT_LT(relative(many.at(name), gradient, 1e-3 * std::sqrt(square)), 1e-6) << name << " on " << ranks << " ranks";
    }
  }
}

TEST_P(EverySharding, TrainsLikeOneProcess) {
  const std::string mode = GetParam();
  const Json base = {{"task", "train"}, {"steps", 6}, {"sharding", mode}};
  const auto train = [&](int ranks, Json job, const std::string& name) {
    job["folder"] = folder_of(name);
    job["accumulation"] = 4 / ranks;
    succeed(ranks, job);
    return job["folder"].get<std::string>();
  };
  Json plain = base;
  plain["sharding"] = "replicated";
  const std::string one = train(1, plain, "one-" + mode);
  const std::vector<Json> expected = test::read_lines(one + "/metrics.jsonl");
  const auto weights = test::copy_weights(load_model(one + "/checkpoint"));
  for (const int ranks : {1, 2, 4}) {
    const std::string many = train(ranks, base, fmt::format("{}-of-{}", mode, ranks));
    const std::vector<Json> lines = test::read_lines(many + "/metrics.jsonl");
    ASSERT_EQ(lines.size(), expected.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      for (const char* key : {"loss", "grad_norm"}) {
        const double wanted = expected[i][key].get<double>();
        EXPECT_NEAR(lines[i][key].get<double>(), wanted, 1e-6 * wanted) << key << " of step " << i + 1;
      }
    }
    const auto result = test::copy_weights(load_model(many + "/checkpoint"));
    for (const auto& [name, weight] : weights) EXPECT_LT(relative(result.at(name), weight), 1e-6) << name;
  }
}

TEST_P(EverySharding, DamagedPicturesAreSeenByOneRankAndCountedByAll) {
  const std::string mode = GetParam();
  Json job = {{"task", "train"}, {"steps", 6}, {"checkpoint_every", 2}};
  job["pictures"] = test::third_damaged_pictures(folder_of("pictures-" + mode)).path;
  const auto train = [&](int ranks, const std::string& sharding, const std::string& name) {
    job["sharding"] = sharding;
    job["folder"] = folder_of(name);
    job["accumulation"] = 4 / ranks;
    succeed(ranks, job);
    return job["folder"].get<std::string>();
  };
  const auto listed = [](const std::string& folder) {
    std::multiset<std::string> result;
    for (const Json& line : test::read_lines(folder + "/skipped.jsonl")) result.insert(line.dump());
    return result;
  };
  const std::string one = train(1, "replicated", "damaged-one-" + mode);
  const Json expected = read_json(one + "/result.json");
  // 24 packs: were each damaged sample beside a good one, there were more samples beyond the first of a pack.
  const auto packed = expected["samples"].get<int64_t>(), damaged = expected["skipped"].get<int64_t>();
  EXPECT_GT(damaged, packed + damaged - 24) << "no pack lost all its samples";
  EXPECT_GT(damaged, 2);
  EXPECT_GT(listed(one).size(), 2U);
  const auto weights = test::copy_weights(load_model(one + "/checkpoint"));
  for (const int ranks : {2, 4}) {
    const std::string many = train(ranks, mode, fmt::format("damaged-{}-of-{}", mode, ranks));
    const Json result = read_json(many + "/result.json");
    EXPECT_EQ(result["skipped"], expected["skipped"]);
    EXPECT_EQ(result["samples"], expected["samples"]);
    EXPECT_EQ(listed(many), listed(one));
    const auto trained = test::copy_weights(load_model(many + "/checkpoint"));
    for (const auto& [name, weight] : weights) EXPECT_LT(relative(trained.at(name), weight), 1e-6) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Modes,
                         EverySharding,
                         testing::Values("replicated", "optimizer", "full"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(EverySharding, EndsWithTheSameBitsWithAndWithoutOverlap) {
  const std::string mode = GetParam();
  for (const int ranks : {1, 2, 4}) {
    for (const bool recompute : {false, true}) {
      if (recompute && mode == "full") continue;  // blocks are recomputed anyway
      const auto train = [&](bool overlap) {
        const std::string folder = folder_of(fmt::format("overlap-{}-{}-{}-{}", mode, ranks, recompute, overlap));
        succeed(ranks,
                {{"task", "train"},
                 {"folder", folder},
                 {"steps", 4},
                 {"sharding", mode},
                 {"accumulation", 2},
                 {"recompute", recompute},
                 {"clip_norm", 0.5},  // below the norm of every step
                 {"overlap", overlap}});
        return folder;
      };
      const std::string with = train(true), without = train(false);
      EXPECT_EQ(read_file(with + "/checkpoint/model.safetensors"), read_file(without + "/checkpoint/model.safetensors"));
      const std::vector<Json> lines = test::read_lines(with + "/metrics.jsonl"), expected = test::read_lines(without + "/metrics.jsonl");
      ASSERT_EQ(lines.size(), expected.size());
      for (std::size_t i = 0; i < lines.size(); ++i) {
        EXPECT_EQ(lines[i]["loss"], expected[i]["loss"]);
        EXPECT_EQ(lines[i]["grad_norm"], expected[i]["grad_norm"]);
        EXPECT_GT(lines[i]["grad_norm"].get<double>(), 0.5);
        ASSERT_EQ(lines[i].contains("communication_wait"), ranks > 1);
        if (ranks == 1) continue;
        EXPECT_GT(lines[i]["communication_wait"].get<double>(), 0);
        EXPECT_LT(lines[i]["communication_wait"].get<double>(), 1);
      }
    }
  }
}

/// Blocks that are divided on their way from the file give the bits of those that every rank had read whole; afterwards rank 0 alone holds
/// them, and all ranks know its result.
TEST(FullSharding, DividesACheckpointThatNoRankHoldsWhole) {
  for (const char* dtype : {"F32", "BF16"}) {
    const std::string start = folder_of(std::string("start-") + dtype);
    const LoadedModel fresh = test::tiny_model(3);
    save_model(fresh.model, test::tiny_tokenizer_path(), start);
    write_safetensors(start + "/model.safetensors", random_tensors(fresh.config, 4, dtype));
    for (const bool updates : {false, true}) {  // low-rank ones, of frozen blocks
      const auto train = [&](int ranks, bool mapped) {
        const std::string folder = folder_of(fmt::format("divided-{}-{}-{}-{}", dtype, updates, ranks, mapped));
        Json job = {{"task", "train"},   {"folder", folder}, {"steps", 3},      {"checkpoint_every", 2},
                    {"sharding", "full"}, {"start", start},   {"mapped", mapped}, {"trainable", {"projector.*", "language.*"}}};
        if (updates) job.update({{"lora_dropout", 0.0}, {"trainable", {"projector.*"}}});
        succeed(ranks, job);
        return folder;
      };
      for (const int ranks : {1, 3}) {
        const std::string mapped = train(ranks, true), whole = train(ranks, false);
        EXPECT_EQ(read_file(mapped + "/checkpoint/model.safetensors"), read_file(whole + "/checkpoint/model.safetensors")) << dtype << updates << ranks;
        const Json first = read_json(mapped + "/left-0.json");
        EXPECT_GT(first["block_numbers"], 30000);
        EXPECT_EQ(first["result"], read_json(mapped + "/result.json"));
        EXPECT_EQ(first["result"]["components"].size(), 3U);
        for (int rank = 1; rank < ranks; ++rank) {
          const Json other = read_json(fmt::format("{}/left-{}.json", mapped, rank));
          EXPECT_EQ(other["block_numbers"], 0);
          EXPECT_EQ(other["result"], first["result"]);
        }
      }
    }
  }
}

class BucketedSharding : public testing::TestWithParam<const char*> {};

TEST_P(BucketedSharding, StartsSumsDuringTheLastBackwardInOneOrder) {
  const std::string mode = GetParam();
  for (const int accumulation : {1, 2}) {
    const auto run = [&](bool overlap, const std::string& name) {
      return gradients(4,
                       {{"accumulation", accumulation}, {"sharding", mode}, {"overlap", overlap}, {"bucket_numbers", 2000}},
                       fmt::format("buckets-{}-{}-{}", mode, accumulation, name));
    };
    const auto with = run(true, "with"), without = run(false, "without");
    for (const auto& [name, gradient] : without) {
      EXPECT_GT(gradient.norm().item<double>(), 0) << name;
      EXPECT_TRUE(test::same_bits(with.at(name), gradient)) << name;
    }
    std::set<int64_t> of_pictures, of_text;
    for (int rank = 0; rank < 4; ++rank) {
      const auto started = [&](const std::string& name) {
        return read_json(fmt::format("{}/started-{}.json", folder_of(fmt::format("buckets-{}-{}-{}", mode, accumulation, name)), rank));
      };
      const Json beside = started("with");
      (beside["pictures"].get<bool>() ? of_pictures : of_text).insert(beside["after_backward"].get<int64_t>());
      EXPECT_EQ(started("without")["after_backward"], 0);
    }
    // With pictures every bucket was on its way when backward returned; with text alone those of the language model.
    ASSERT_EQ(of_pictures.size(), 1U) << "the last packs must be of both kinds";
    ASSERT_EQ(of_text.size(), 1U) << "the last packs must be of both kinds";
    EXPECT_GT(*of_pictures.begin(), *of_text.begin());
    EXPECT_GT(*of_text.begin(), 2);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes,
                         BucketedSharding,
                         testing::Values("replicated", "optimizer"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Sharding, GathersTheNextBlockAndSumsTheLastOnesGradientsWhileOneComputes) {
  const auto started = [&](bool overlap, int rank) {
    const std::string name = overlap ? "ahead" : "not-ahead";
    if (rank == 0) {
      std::filesystem::create_directories(folder_of(name));
      gradients(2, {{"accumulation", 2}, {"sharding", "full"}, {"overlap", overlap}, {"hold", overlap}}, name);
    }
    return read_json(fmt::format("{}/started-{}.json", folder_of(name), rank));
  };
  // Four blocks run, and run again backwards. Each time one gathering; after each backward a sum.
  const Json in_turn = {1, 2, 3, 4, 5, 7, 9, 11};
  // Of the second pack, when the order is known: one block ahead, but for the last, which stays for its own backward.
  const Json ahead = {2, 3, 4, 4, 5, 7, 9, 10};
  for (const int rank : {0, 1}) {
    const Json with = started(true, rank), without = started(false, rank);
    EXPECT_EQ(with["in_blocks"], ahead);
    EXPECT_TRUE(with["done_in_blocks"].get<bool>());
    EXPECT_TRUE(with["held"].get<bool>()) << "rank 0 waits for gradients before it goes on";
    EXPECT_EQ(without["in_blocks"], in_turn);
  }
}

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

TEST(Sharding, DividesFrozenBlocksAndLetsThemPassGradientsOn) {
  // Frozen blocks under a projector that learns: with text alone on one rank and pictures on another.
  const Json job = {{"accumulation", 1}, {"trainable", {"projector.*"}}, {"task", "train"}, {"steps", 5}};
  Json full = job;
  full["sharding"] = "full";
  full["folder"] = folder_of("frozen-full");
  succeed(4, full);
  Json plain = job;
  plain["folder"] = folder_of("frozen-one");
  plain["accumulation"] = 4;
  succeed(1, plain);
  const auto a = test::copy_weights(load_model(folder_of("frozen-full") + "/checkpoint"));
  for (const auto& [name, weight] : test::copy_weights(load_model(folder_of("frozen-one") + "/checkpoint"))) {
    EXPECT_LT(relative(a.at(name), weight), 1e-6) << name;
  }
}

TEST(Sharding, OrthogonalizesDividedMatricesAsWholeOnes) {
  const auto train = [&](const std::string& mode) {
    const std::string folder = folder_of("muon-" + mode);
    succeed(2,
            {{"task", "train"},
             {"folder", folder},
             {"steps", 3},
             {"sharding", mode},
             {"orthogonalized", {"language.layers.*", "vision_encoder.blocks.*"}}});
    return test::copy_weights(load_model(folder + "/checkpoint"));
  };
  const auto whole = train("replicated");
  for (const char* mode : {"optimizer", "full"}) {
    const auto divided = train(mode);
    // Newton-Schulz runs in bfloat16, so batches of one matrix or several may round differently.
    for (const auto& [name, weight] : whole) EXPECT_LT(relative(divided.at(name), weight), 2e-4) << mode << " " << name;
  }
}

TEST_P(EverySharding, AveragesLikeOneProcess) {
  const std::string mode = GetParam();
  const auto train = [&](int ranks, const std::string& sharding, const std::string& name) {
    succeed(ranks,
            {{"task", "train"},
             {"folder", folder_of(name)},
             {"steps", 5},
             {"accumulation", 2 / ranks},
             {"ema_decay", 0.7},
             {"sharding", sharding}});
    return folder_of(name);
  };
  const std::string one = train(1, "replicated", "ema-one-" + mode);
  const auto expected = test::copy_weights(load_model(one + "/checkpoint-ema"));
  const auto last = test::copy_weights(load_model(one + "/checkpoint"));
  const auto averages = test::copy_weights(load_model(train(2, mode, "ema-two-" + mode) + "/checkpoint-ema"));
  for (const auto& [name, average] : expected) {
    EXPECT_LT(relative(averages.at(name), average), 1e-6) << name;
    EXPECT_GT((average - last.at(name)).norm().item<double>(), 0) << name;
  }
}

TEST(Recomputing, GivesTheSameBits) {
  const auto train = [&](bool recompute) {
    const std::string folder = folder_of(recompute ? "recompute" : "keep");
    succeed(1, {{"task", "train"}, {"folder", folder}, {"steps", 3}, {"recompute", recompute}});
    return read_file(folder + "/checkpoint/model.safetensors");
  };
  EXPECT_EQ(train(true), train(false));
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
