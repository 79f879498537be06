#include "data/packed_loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "base/random.h"
#include "data/conversations.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::byte_tokenizer;
using test::document;
using test::error_of;
using test::MadeUpSource;
using test::small_images;
using test::small_prompt;
using test::test_picture;
using test::TestFolder;

constexpr std::int64_t kEndless = SampleSource::kEndless;

class PackedLoaderTest : public testing::Test {
 protected:
  using Sources = std::vector<std::unique_ptr<SampleSource>>;

  static LoaderConfig config_for(std::size_t num_sources = 1, std::int64_t workers = 0) {
    LoaderConfig config;
    config.sources.resize(num_sources);
    config.batch_tokens = 512;
    config.max_tokens = 256;
    config.look_ahead = 32;
    config.workers = workers;
    config.seed = 5;
    return config;
  }

  /// Short documents, and chats with pictures between them; every 13th is damaged, every 17th too
  /// long.
  static Sources made_up(std::int64_t size = kEndless, const std::string& name = "made up") {
    Sources sources;
    sources.push_back(std::make_unique<MadeUpSource>(name, size, [name](std::int64_t i) {
      if (i % 13 == 5)
        throw DamagedSample(name, fmt::format("sample {}", i), "missing image", "it is gone");
      if (i % 17 == 3) return document(std::to_string(i), 5000);
      Random random({static_cast<std::uint64_t>(i)});
      if (i % 4 != 0)
        return document(std::to_string(i), static_cast<std::size_t>(random.between(5, 90)));
      Sample sample;
      sample.id = std::to_string(i);
      sample.task = "caption";
      sample.chat.turns = {{"user", "<image>\nWhat?"},
                           {"assistant", "Sample " + std::to_string(i)}};
      sample.chat.images.push_back(test_picture(static_cast<int>(random.between(20, 60)),
                                                static_cast<int>(random.between(20, 60)),
                                                static_cast<int>(i % 50)));
      return sample;
    }));
    return sources;
  }

  std::vector<PackedBatch> packs(int count, LoaderConfig config, int rank = 0, int num_ranks = 1) {
    PackedLoader loader(config, made_up(), encoder_, rank, num_ranks);
    std::vector<PackedBatch> result;
    for (int i = 0; i < count; ++i) result.push_back(loader.next());
    return result;
  }

  static void expect_equal(const PackedBatch& a, const PackedBatch& b) {
    EXPECT_EQ(a.input_ids, b.input_ids);
    EXPECT_EQ(a.position_ids, b.position_ids);
    EXPECT_EQ(a.labels, b.labels);
    EXPECT_EQ(a.loss_weights, b.loss_weights);
    EXPECT_EQ(a.segment_lengths, b.segment_lengths);
    EXPECT_EQ(a.patches, b.patches);
    EXPECT_EQ(a.grids, b.grids);
    EXPECT_EQ(a.visual_positions, b.visual_positions);
    EXPECT_EQ(a.visual_rows, b.visual_rows);
    EXPECT_EQ(a.segment_slices, b.segment_slices);
    EXPECT_EQ(a.sample_ids, b.sample_ids);
  }

  Tokenizer tokenizer_ = byte_tokenizer();
  PromptEncoder encoder_{tokenizer_, small_prompt(), small_images()};
};

TEST_F(PackedLoaderTest, LosesAndRepeatsNothing) {
  LoaderConfig config = config_for();
  PackedLoader loader(config, made_up(), encoder_);
  std::set<std::string> seen;
  for (int i = 0; i < 200; ++i) {
    const PackedBatch batch = loader.next();
    ASSERT_LE(batch.num_tokens(), config.batch_tokens);
    for (const std::string& id : batch.sample_ids)
      EXPECT_TRUE(seen.insert(id).second) << id << " came twice";
  }
  const LoaderState state = loader.state();
  EXPECT_EQ(static_cast<std::int64_t>(seen.size()), loader.num_samples());
  for (const std::int64_t position : state.pending) seen.insert(std::to_string(position));
  for (std::int64_t i = 0; i < state.next_position; ++i) {
    const bool usable = i % 13 != 5 && i % 17 != 3;
    EXPECT_EQ(seen.contains(std::to_string(i)), usable) << i;
  }
}

TEST_F(PackedLoaderTest, EverySegmentIsTheWholeSample) {
  PackedLoader loader(config_for(), made_up(), encoder_);
  const Sources sources = made_up();
  for (int i = 0; i < 30; ++i) {
    const PackedBatch batch = loader.next();
    std::size_t token = 0, visual = 0, slice = 0, patch = 0;
    for (std::size_t s = 0; s < batch.sample_ids.size(); ++s) {
      const EncodedSample alone =
          encode_sample(sources[0]->at(std::stoll(batch.sample_ids[s])), encoder_);
      ASSERT_EQ(batch.segment_lengths[s], alone.num_tokens());
      ASSERT_EQ(batch.segment_slices[s], static_cast<std::int64_t>(alone.chat.grids.size()));
      for (std::size_t t = 0; t < alone.chat.ids.size(); ++t) {
        EXPECT_EQ(batch.input_ids[token + t], alone.chat.ids[t]);
        EXPECT_EQ(batch.position_ids[token + t], static_cast<std::int64_t>(t));
        const bool teaches = t + 1 < alone.chat.ids.size() && alone.chat.is_target[t + 1] != 0;
        EXPECT_EQ(batch.labels[token + t], teaches ? alone.chat.ids[t + 1] : -100);
      }
      for (const std::int32_t position : alone.chat.visual_positions) {
        EXPECT_EQ(batch.visual_positions[visual], static_cast<std::int64_t>(token) + position);
        EXPECT_EQ(batch.visual_rows[visual], static_cast<std::int64_t>(visual));
        EXPECT_EQ(batch.input_ids[static_cast<std::size_t>(batch.visual_positions[visual])], 0);
        ++visual;
      }
      for (const float value : alone.chat.patches) ASSERT_EQ(batch.patches[patch++], value);
      slice += alone.chat.grids.size();
      token += alone.chat.ids.size();
    }
    EXPECT_EQ(token, batch.input_ids.size());
    EXPECT_EQ(slice, batch.grids.size());
    EXPECT_EQ(patch, batch.patches.size());
    EXPECT_EQ(visual, batch.visual_rows.size());
  }
}

TEST_F(PackedLoaderTest, FillsPacksToMoreThan97Percent) {
  LoaderConfig config = config_for();
  PackedLoader loader(config, made_up(), encoder_);
  std::int64_t tokens = 0;
  for (int i = 0; i < 200; ++i) tokens += loader.next().num_tokens();
  EXPECT_GT(static_cast<double>(tokens) / (200.0 * static_cast<double>(config.batch_tokens)), 0.97);
}

TEST_F(PackedLoaderTest, NoSampleWaitsForLong) {
  PackedLoader loader(config_for(), made_up(), encoder_);
  for (int i = 0; i < 200; ++i) {
    loader.next();
    const LoaderState state = loader.state();
    // Each pack begins with the sample that has waited longest, so the window passes in 32 packs.
    if (!state.pending.empty()) {
      EXPECT_LT(state.next_position - state.pending.front(), 32 * 30);
    }
  }
}

TEST_F(PackedLoaderTest, TheNumberOfWorkersChangesNothing) {
  const auto alone = packs(40, config_for(1, 0));
  for (const std::int64_t workers : {1, 3, 8}) {
    const auto helped = packs(40, config_for(1, workers));
    for (std::size_t i = 0; i < alone.size(); ++i) expect_equal(alone[i], helped[i]);
  }
}

TEST_F(PackedLoaderTest, ARestoredLoaderContinuesWithTheSamePacks) {
  const auto whole = packs(40, config_for());
  for (const int stop : {0, 1, 7, 23}) {
    PackedLoader first(config_for(1, 2), made_up(), encoder_);
    for (int i = 0; i < stop; ++i) first.next();
    const LoaderState state =
        LoaderState::from_json(parse_json(first.state().to_json().dump(), "state"), "state");
    PackedLoader second(config_for(1, stop % 3), made_up(), encoder_);
    second.restore(state);
    EXPECT_EQ(second.state().to_json(), state.to_json());
    for (std::size_t i = static_cast<std::size_t>(stop); i < whole.size(); ++i)
      expect_equal(whole[i], second.next());
  }
}

TEST_F(PackedLoaderTest, ALoaderThatReadAheadCanBeSetBack) {
  PackedLoader loader(config_for(1, 3), made_up(), encoder_);
  for (int i = 0; i < 5; ++i) loader.next();
  const LoaderState state = loader.state();
  std::vector<PackedBatch> once;
  for (int i = 0; i < 10; ++i) once.push_back(loader.next());
  const std::int64_t samples = loader.num_samples();
  loader.restore(state);
  for (const PackedBatch& batch : once) expect_equal(batch, loader.next());
  EXPECT_EQ(loader.num_samples(), samples);
}

TEST_F(PackedLoaderTest, RanksShareOneSequence) {
  const auto whole = packs(24, config_for());
  for (const int num_ranks : {2, 3, 4}) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      const auto part = packs(24 / num_ranks, config_for(1, 1), rank, num_ranks);
      for (std::size_t i = 0; i < part.size(); ++i) {
        expect_equal(
            part[i],
            whole[i * static_cast<std::size_t>(num_ranks) + static_cast<std::size_t>(rank)]);
      }
    }
  }
}

TEST_F(PackedLoaderTest, StepsHaveTheSamePacksOnAnyNumberOfRanks) {
  constexpr std::size_t kSteps = 4, kPacks = 4;
  const auto whole = packs(kSteps * kPacks, config_for());
  for (const std::size_t num_ranks : {1U, 3U, 4U, 6U}) {
    std::vector<LoaderState> states;  // after each round of rank 0
    for (std::size_t rank = 0; rank < num_ranks; ++rank) {
      PackedLoader loader(config_for(1, rank % 2),
                          made_up(),
                          encoder_,
                          static_cast<int>(rank),
                          static_cast<int>(num_ranks),
                          kPacks);
      std::size_t round = 0;
      for (std::size_t step = 0; step < kSteps; ++step) {
        for (std::size_t first = 0; first < kPacks; first += num_ranks, ++round) {
          const PackedBatch pack = loader.next();
          if (first + rank < kPacks) {
            expect_equal(pack, whole[step * kPacks + first + rank]);
          } else {
            EXPECT_EQ(pack.num_tokens(), 0);
          }
          if (rank == 0) states.push_back(loader.state());
          EXPECT_EQ(loader.state().to_json(), states[round].to_json());
        }
      }
    }
    PackedLoader resumed(config_for(), made_up(), encoder_, 0, static_cast<int>(num_ranks), kPacks);
    const std::size_t rounds = (kPacks + num_ranks - 1) / num_ranks;
    resumed.restore(states[2 * rounds - 1]);
    expect_equal(resumed.next(), whole[2 * kPacks]);
  }
}

TEST_F(PackedLoaderTest, RanksHaveOneStateAndMayChangeInNumber) {
  const auto whole = packs(24, config_for());
  PackedLoader first(config_for(), made_up(), encoder_, 0, 2),
      second(config_for(), made_up(), encoder_, 1, 2);
  for (int i = 0; i < 6; ++i) {
    first.next();
    second.next();
    EXPECT_EQ(first.state().to_json(), second.state().to_json());
  }
  PackedLoader third(config_for(), made_up(), encoder_, 2, 3);
  third.restore(first.state());
  expect_equal(third.next(), whole[14]);
  expect_equal(third.next(), whole[17]);
}

TEST_F(PackedLoaderTest, MixesSourcesByWeight) {
  LoaderConfig config = config_for(3);
  config.sources[0].weight = 6;
  config.sources[1].weight = 3;
  config.sources[2].weight = 1;
  Sources sources;
  for (const std::string name : {"a", "b", "c"}) {
    sources.push_back(
        std::make_unique<MadeUpSource>(name, name == "b" ? 10 : kEndless, [name](std::int64_t i) {
          return document(name + std::to_string(i), 30);
        }));
  }
  PackedLoader loader(config, std::move(sources), encoder_);
  std::map<char, std::map<std::string, int>> drawn;
  for (int i = 0; i < 300; ++i) {
    for (const std::string& id : loader.next().sample_ids) ++drawn[id.front()][id];
  }
  std::map<char, int> totals;
  for (const auto& [name, ids] : drawn) {
    for (const auto& [id, count] : ids) totals[name] += count;
  }
  const double all = totals['a'] + totals['b'] + totals['c'];
  EXPECT_NEAR(totals['a'] / all, 0.6, 0.02);
  EXPECT_NEAR(totals['b'] / all, 0.3, 0.02);
  EXPECT_NEAR(totals['c'] / all, 0.1, 0.02);
  EXPECT_EQ(drawn['b'].size(), 10U);
  int least = 1 << 30, most = 0;
  for (const auto& [id, count] : drawn['b']) {
    least = std::min(least, count);
    most = std::max(most, count);
  }
  EXPECT_LE(most - least, 6);  // whole epochs, but for what waits in the window
}

TEST_F(PackedLoaderTest, IdsTellSourcesAndFilesApart) {
  const test::TestFolder folder;
  const std::string lines = "{\"id\": \"x\", \"text\": \"one\"}\n{\"text\": \"two\"}\n{\"text\": \"" + std::string(200, 'y') + "\"}\n";
  for (const char* name : {"a.jsonl", "b-1.jsonl", "b-2.jsonl"}) folder.write(name, lines);
  LoaderConfig config = config_for(2);
  for (SourceConfig& source : config.sources) source.kind = "text";
  config.sources[0].path = folder.path("a.jsonl");
  config.sources[1].path = folder.path("b-*.jsonl");
  config.batch_tokens = config.max_tokens = 100;
  config.look_ahead = 4;
  const auto ids_of = [&] {
    PackedLoader loader(config, encoder_);
    std::set<std::string> ids;
    for (int i = 0; i < 20; ++i) {
      for (const std::string& id : loader.next().sample_ids) ids.insert(id);
    }
    return ids;
  };
  EXPECT_EQ(ids_of(), (std::set<std::string>{"x@0", "#1@0", "x@1.0", "#1@1.0", "x@1.1", "#1@1.1"}));
  config.long_text = "split";
  config.max_tokens = 90;
  const std::set<std::string> pieces = ids_of();
  EXPECT_TRUE(pieces.contains("#2, piece 1 of 3@0"));
  EXPECT_TRUE(pieces.contains("#2, piece 1 of 3@1.1"));
  config.long_text = "refuse";
  config.sources.pop_back();
  EXPECT_EQ(ids_of(), (std::set<std::string>{"x", "#1"})) << "one file needs no numbers";
}

TEST_F(PackedLoaderTest, PlacesOfSkippedSamplesTellSourcesOfOneNameApart) {
  const auto sources = [](const char* second) {
    Sources made;
    for (const std::string name : {"scenes", second}) {
      made.push_back(std::make_unique<MadeUpSource>(name, 10, [](std::int64_t i) { return document(std::to_string(i), i == 3 ? 5000 : 30); }));
    }
    return made;
  };
  const auto skipped = [&](const char* second) {
    PackedLoader loader(config_for(2), sources(second), encoder_);
    for (int i = 0; i < 30; ++i) loader.next();
    std::set<std::string> places;
    for (const SkippedSample& sample : loader.skipped()) places.insert(sample.source + ": " + sample.place);
    return places;
  };
  EXPECT_EQ(skipped("scenes"), (std::set<std::string>{"scenes@0: sample 3", "scenes@1: sample 3"}));
  EXPECT_EQ(skipped("others"), (std::set<std::string>{"scenes: sample 3", "others: sample 3"}));
}

TEST_F(PackedLoaderTest, SkippedSamplesAreCountedAndListedOnce) {
  LoaderConfig config = config_for();
  PackedLoader loader(config, made_up(100), encoder_);
  while (loader.state().next_position < 300) loader.next();
  const auto skipped = loader.skipped();
  std::set<std::string> places;
  int damaged = 0, long_ones = 0;
  for (const SkippedSample& sample : skipped) {
    EXPECT_EQ(sample.source, "made up");
    EXPECT_TRUE(places.insert(sample.place).second);
    damaged += sample.reason == "missing image: it is gone" ? 1 : 0;
    long_ones += sample.reason.starts_with("too long: 5002 tokens exceed max_tokens = 256") ? 1 : 0;
  }
  EXPECT_EQ(damaged, 8);    // 5, 18, ... 96
  EXPECT_EQ(long_ones, 6);  // 3, 20, ... 88 except 83, which is damaged
  EXPECT_GE(loader.num_skipped(), 3 * 13);
}

TEST_F(PackedLoaderTest, ASourceWithoutUsableSamplesIsAnErrorNotAnEndlessLoop) {
  for (const std::int64_t workers : {0, 2}) {
    for (const auto& [size, tries] : {std::pair{std::int64_t{7}, 13}, std::pair{kEndless, 1000}}) {
      Sources sources;
      sources.push_back(std::make_unique<MadeUpSource>("bad", size, [](std::int64_t i) -> Sample {
        throw DamagedSample("bad", std::to_string(i), "missing image", "gone");
      }));
      PackedLoader loader(config_for(1, workers), std::move(sources), encoder_);
      const std::string error = error_of([&] { loader.next(); });
      EXPECT_NE(error.find(fmt::format("bad: no usable sample among {} in a row", tries)),
                std::string::npos)
          << error;
    }
  }
}

TEST_F(PackedLoaderTest, OneUsableSampleAnEpochIsEnough) {
  Sources sources;
  sources.push_back(std::make_unique<MadeUpSource>("rare", 20, [](std::int64_t i) -> Sample {
    if (i != 11) fail("sample {} is bad", i);
    return document("good", 100);
  }));
  PackedLoader loader(config_for(), std::move(sources), encoder_);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(loader.next().sample_ids.size(), 5U);
  EXPECT_EQ(loader.skipped().size(), 19U);
}

TEST_F(PackedLoaderTest, WhatIsNoDamageOfASampleStopsTheRun) {
  for (const std::int64_t workers : {0, 2}) {
    Sources sources;
    sources.push_back(
        std::make_unique<MadeUpSource>("faulty", kEndless, [](std::int64_t i) -> Sample {
          if (i == 40) throw std::logic_error("a fault of the program");
          return document(std::to_string(i), 20);
        }));
    PackedLoader loader(config_for(1, workers), std::move(sources), encoder_);
    EXPECT_THROW(for (int i = 0; i < 100; ++i) loader.next(), std::logic_error);
  }
}

TEST_F(PackedLoaderTest, CanBeDroppedAtAnyMoment) {
  for (int round = 0; round < 20; ++round) {
    Sources sources;
    sources.push_back(std::make_unique<MadeUpSource>("slow", kEndless, [](std::int64_t i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return document(std::to_string(i), 60);
    }));
    PackedLoader loader(config_for(1, 3), std::move(sources), encoder_);
    for (int i = 0; i < round % 3; ++i) loader.next();
    if (round % 4 == 3) loader.restore(loader.state());
  }
}

TEST_F(PackedLoaderTest, ReadsAheadOnlyAsFarAsOnePackNeeds) {
  auto read = std::make_shared<std::atomic<std::int64_t>>(0);
  Sources sources;
  sources.push_back(std::make_unique<MadeUpSource>("counted", kEndless, [read](std::int64_t i) {
    ++*read;
    return document(std::to_string(i), 62);
  }));
  PackedLoader loader(config_for(1, 2), std::move(sources), encoder_);
  for (int i = 0; i < 20; ++i) loader.next();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  // 64 tokens each: 20 packs of 8 and the one that is read meanwhile, a window of 32, a pack and a quarter measured ahead and one
  // a worker.
  EXPECT_LE(read->load(), 21 * 8 + 32 + 10 + 2 + 2);
}

TEST_F(PackedLoaderTest, AStateOfOtherDataIsRefused) {
  PackedLoader loader(config_for(), made_up(100), encoder_),
      other(config_for(), made_up(101), encoder_);
  loader.next();
  EXPECT_NE(error_of([&] { other.restore(loader.state()); }).find("the data are not those"),
            std::string::npos);
  LoaderState state = loader.state();
  state.pending.push_back(state.pending.front());
  EXPECT_NE(error_of([&] { loader.restore(state); }).find("twice"), std::string::npos);
  state.pending = {state.next_position};
  EXPECT_NE(error_of([&] { loader.restore(state); }).find("outside"), std::string::npos);
  for (const char* text : {"[]",
                           R"({"next_position": -1})",
                           R"({"next_position": "x"})",
                           R"({"nxt": 1})",
                           R"({"pending": [5]})"}) {
    EXPECT_NE(error_of([&] {
                LoaderState::from_json(parse_json(text, "x"), "checkpoint");
              }).find("checkpoint"),
              std::string::npos);
  }
}

TEST_F(PackedLoaderTest, RefusesRanksThatDoNotExist) {
  EXPECT_NE(
      error_of([&] { PackedLoader(config_for(), made_up(), encoder_, 2, 2); }).find("rank 2 of 2"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              PackedLoader(config_for(2), made_up(), encoder_);
            }).find("1 sources are open for 2"),
            std::string::npos);
}

TEST_F(PackedLoaderTest, DamagedFilesOfTenKindsDoNotStopTraining) {
  const TestFolder folder;
  const auto chat = [](const std::string& extra, const std::string& question = "What?") {
    return "{" + extra + R"("conversations": [{"from": "human", "value": ")" + question +
           R"("}, {"from": "gpt", "value": "That."}]})";
  };
  const std::string jpeg = encode_jpeg(test_picture(64, 64), 90);
  folder.write("good.jpg", jpeg);
  folder.write("cut.jpg", jpeg.substr(0, jpeg.size() / 2));
  folder.write("huge.png", encode_png(test_picture(400, 400)));
  folder.write("text.png", "hello");
  const std::vector<std::pair<std::string, std::string>> lines = {
      {chat(R"("image": "good.jpg", )"), ""},
      {chat(R"("id": "same", )"), ""},
      {chat(R"("id": "same", )"), ""},
      {chat(R"("image": "absent.jpg", )"), "missing image"},
      {chat(R"("image": "cut.jpg", )"), "damaged image"},
      {chat(R"("image": "huge.png", )"), "image too large"},
      {chat(R"("image": "text.png", )"), "not an image"},
      {R"({"conversations": []})", "empty conversation"},
      {R"({"conversations": {"from": "human"}})", "wrong type"},
      {chat("", "<image> What?"), "image mark without image"},
      {chat("", "caf\xe9"), "invalid UTF-8"},
      {chat("", std::string(3000, 'x')), "too long"},
      {R"({"conversations": [{"from": "human", "value": "What?"}]})", "no answer"},
      {"not json", "invalid JSON"},
  };
  std::string text;
  for (const auto& [line, reason] : lines) text += line + "\n";
  LoaderConfig config = config_for(1, 2);
  config.sources[0].kind = "conversations";
  config.sources[0].path = folder.write("data.jsonl", text);
  ImageConfig images = small_images();
  images.max_megapixels = 0.1;
  const PromptEncoder encoder(tokenizer_, small_prompt(), images);
  PackedLoader loader(config, encoder);
  for (int i = 0; i < 20; ++i) EXPECT_GT(loader.next().num_targets(), 0);
  std::map<std::string, std::string> reasons;
  for (const SkippedSample& sample : loader.skipped()) {
    EXPECT_EQ(sample.source, config.sources[0].path);
    reasons[sample.place] = sample.reason;
  }
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string place = fmt::format("line {}", i + 1);
    if (lines[i].second.empty()) {
      EXPECT_FALSE(reasons.contains(place)) << reasons[place];
    } else {
      EXPECT_TRUE(reasons[place].starts_with(lines[i].second + ": "))
          << place << ": " << reasons[place];
    }
  }
}

TEST_F(PackedLoaderTest, FramesOfAVideoAreReadWithItsSettings) {
  const TestFolder folder;
  for (int frame = 0; frame < 3; ++frame)
    folder.write(fmt::format("clip/{}.png", frame), encode_png(test_picture(112, 56, frame)));
  const std::string turns =
      R"("conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]})";
  LoaderConfig config = config_for(1, 2);
  config.sources[0].kind = "conversations";
  config.sources[0].path = folder.write("data.jsonl",
                                        R"({"id": "video", "video": "clip", "video_fps": 1, )" + turns + "\n" +
                                            R"({"id": "images", "images": ["clip/0.png", "clip/1.png"], )" + turns + "\n");
  config.batch_tokens = 1024;
  config.max_tokens = 1024;
  PromptConfig prompt = small_prompt();
  prompt.use_image_id = true;
  const PromptEncoder encoder(tokenizer_, prompt, small_images());
  const ConversationSource source(config.sources[0].path);

  // What generate --video sets for the same frames.
  PromptConfig video_prompt = prompt;
  video_prompt.use_image_id = false;
  ImageConfig video_images = small_images();
  video_images.max_slices = 2;
  const EncodedChat expected =
      PromptEncoder(tokenizer_, video_prompt, video_images).encode(source.at(0).chat, false);
  ASSERT_EQ(expected.grids.size(), 3U * 3U);  // an overview and two tiles a frame
  PackedLoader loader(config, encoder);
  const PackedBatch pack = loader.next();
  bool seen_video = false, seen_images = false;
  std::size_t token = 0, slice = 0;
  std::ptrdiff_t patch_floats = 0;
  for (std::size_t s = 0; s < pack.sample_ids.size(); ++s) {
    const auto tokens = static_cast<std::size_t>(pack.segment_lengths[s]);
    const auto slices = static_cast<std::size_t>(pack.segment_slices[s]);
    if (pack.sample_ids[s] == "video") {
      seen_video = true;
      EXPECT_EQ(std::vector<std::int32_t>(pack.input_ids.begin() + static_cast<std::ptrdiff_t>(token),
                                          pack.input_ids.begin() + static_cast<std::ptrdiff_t>(token + tokens)),
                expected.ids);
      ASSERT_EQ(slices, expected.grids.size());
      EXPECT_TRUE(std::equal(expected.patches.begin(), expected.patches.end(), pack.patches.begin() + patch_floats));
    } else {
      seen_images = true;
      EXPECT_EQ(slices, 2U * 4U);  // an overview and three tiles a picture, as the model's config says
    }
    token += tokens;
    for (std::size_t end = slice + slices; slice < end; ++slice)
      patch_floats += pack.grids[slice][0] * pack.grids[slice][1] * 3 * 14 * 14;
  }
  EXPECT_TRUE(seen_video && seen_images);
  EXPECT_EQ(loader.num_skipped(), 0);
}

TEST_F(PackedLoaderTest, DocumentsAreAllTargetsAndChatsOnlyTheirAnswers) {
  const EncodedSample text = encode_sample(document("x", 10), encoder_);
  EXPECT_EQ(text.num_tokens(), 12);
  Sample sample;
  sample.chat.turns = {{"user", "Question"}, {"assistant", "Answer"}};
  const EncodedSample chat = encode_sample(sample, encoder_);
  std::string learned;
  for (std::size_t i = 0; i < chat.chat.ids.size(); ++i) {
    if (chat.chat.is_target[i] != 0) learned += tokenizer_.piece_text(chat.chat.ids[i]);
  }
  EXPECT_TRUE(learned.starts_with("Answer")) << learned;
  EXPECT_EQ(learned.find("Question"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
