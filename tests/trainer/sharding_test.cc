#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/safetensors.h"
#include "model/initialization.h"
#include "rank_jobs.h"
#include "tiny_stage.h"

/// Every way of dividing a model among ranks trains like one process.
namespace pocketvlm {
namespace {

using test::folder_of;
using test::gradients;
using test::relative;
using test::succeed;

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

}  // namespace
}  // namespace pocketvlm
