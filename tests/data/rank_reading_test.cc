/// Every rank plans all packs and decodes the pictures of its own alone.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/files.h"
#include "base/random.h"
#include "data/packed_loader.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::byte_tokenizer;
using test::document;
using test::error_of;
using test::make_tar;
using test::MadeUpSource;
using test::small_images;
using test::small_prompt;
using test::test_picture;
using test::TestFolder;

using Sources = std::vector<std::unique_ptr<SampleSource>>;

/// A source behind another one, which hands everything through.
class Wrapped : public SampleSource {
 public:
  explicit Wrapped(std::unique_ptr<SampleSource> source) : inner_(std::move(source)) {}
  std::int64_t size() const override { return inner_->size(); }
  Sample at(std::int64_t index) const override { return inner_->at(index); }
  Sample outline(std::int64_t index) const override { return inner_->outline(index); }
  std::string name() const override { return inner_->name(); }
  std::string place(std::int64_t index) const override { return inner_->place(index); }
  std::optional<std::int64_t> file_number(std::int64_t index) const override { return inner_->file_number(index); }

 protected:
  std::unique_ptr<SampleSource> inner_;
};

/// Measures by decoding everything.
class Decoding : public Wrapped {
 public:
  using Wrapped::Wrapped;
  Sample outline(std::int64_t index) const override { return SampleSource::outline(index); }
};

/// How often each sample was read with its pictures.
struct Reads {
  std::mutex mutex;
  std::map<std::string, int> of_sample;
  int total() {
    const std::lock_guard lock(mutex);
    int sum = 0;
    for (const auto& [id, count] : of_sample) sum += count;
    return sum;
  }
};

class Counting : public Wrapped {
 public:
  Counting(std::unique_ptr<SampleSource> source, std::shared_ptr<Reads> reads)
      : Wrapped(std::move(source)), reads_(std::move(reads)) {}
  Sample at(std::int64_t index) const override {
    Sample sample = Wrapped::at(index);
    const std::lock_guard lock(reads_->mutex);
    ++reads_->of_sample[sample.id];
    return sample;
  }

 private:
  std::shared_ptr<Reads> reads_;
};

/// Some pictures have a good header and damaged pixels.
class DamagedBehindTheHeader : public Wrapped {
 public:
  DamagedBehindTheHeader(std::unique_ptr<SampleSource> source, std::function<bool(std::int64_t)> is_damaged)
      : Wrapped(std::move(source)), is_damaged_(std::move(is_damaged)) {}
  Sample at(std::int64_t index) const override {
    if (is_damaged_(index)) throw DamagedSample(name(), place(index), "damaged image", "its pixels");
    return Wrapped::at(index);
  }

 private:
  std::function<bool(std::int64_t)> is_damaged_;
};

/// Captions of pictures of many sizes; an outline costs no pixels.
class Captions : public SampleSource {
 public:
  Captions(std::int64_t size, std::size_t least_text = 5, std::size_t most_text = 60)
      : size_(size), least_(least_text), most_(most_text) {}
  std::int64_t size() const override { return size_; }
  Sample at(std::int64_t index) const override { return make(index, true); }
  Sample outline(std::int64_t index) const override { return make(index, false); }
  std::string name() const override { return "captions"; }

 private:
  Sample make(std::int64_t index, bool pixels) const {
    Random random({static_cast<std::uint64_t>(index), 77});
    const auto text = static_cast<std::size_t>(
        random.between(static_cast<std::int64_t>(least_), static_cast<std::int64_t>(most_)));
    Sample sample = document(std::to_string(index), text);
    if (index % 5 == 4) return sample;  // a text without a picture
    const int width = static_cast<int>(random.between(20, 60)), height = static_cast<int>(random.between(20, 60));
    sample.chat.turns.insert(sample.chat.turns.begin(), {"user", "<image>\nWhat?"});
    sample.chat.images.push_back(pixels ? test_picture(width, height, static_cast<int>(index % 50))
                                        : Image::outline(width, height));
    return sample;
  }

  std::int64_t size_;
  std::size_t least_, most_;
};

std::string chat_line(const std::string& id, const std::string& picture, const std::string& answer) {
  return R"({"id": ")" + id + "\", " + (picture.empty() ? "" : R"("image": ")" + picture + "\", ") +
         R"("conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": ")" + answer + "\"}]}";
}

class RankReading : public testing::Test {
 protected:
  static LoaderConfig config_for(std::int64_t workers, std::size_t num_sources = 1) {
    LoaderConfig config;
    config.sources.resize(num_sources);
    config.batch_tokens = 512;
    config.max_tokens = 256;
    config.look_ahead = 32;
    config.workers = workers;
    config.seed = 5;
    return config;
  }

  /// One source of every kind, with pictures of every format and a few that no rank can use.
  LoaderConfig every_kind() const {
    const std::string images = std::string(TEST_DATA) + "/data/preprocess/images/";
    const std::vector<std::string> pictures = {"420_larger.jpg", "exif_6.jpg", "cmyk.jpg", "rgb16.png", "palette4.png",
                                               "lossy.webp",     "animated_lossy_moved.webp", "palette.gif", "moved.gif"};
    std::string lines, list;
    for (int i = 0; i < 60; ++i) {
      const std::string& picture = pictures[static_cast<std::size_t>(i) % pictures.size()];
      const std::string path = i % 7 == 3 ? "absent.png" : i % 7 == 6 ? "" : images + picture;
      lines += chat_line(fmt::format("line-{}", i), path, std::string(static_cast<std::size_t>(3 + i * i % 50), 'a')) + "\n";
      list += (i == 0 ? "[" : ",\n") + chat_line(fmt::format("list-{}", i), path, std::string(static_cast<std::size_t>(400 - 5 * i), 'b'));
    }
    std::vector<test::TarEntry> members;
    for (int i = 0; i < 20; ++i) {
      members.push_back({fmt::format("{}.json", i), chat_line(fmt::format("tar-{}", i), "", "in the archive"), '0', "", ""});
      members.push_back({fmt::format("{}.jpg", i), encode_jpeg(test_picture(30 + 7 * i, 90 - 4 * i, i), 80), '0', "", ""});
    }
    LoaderConfig config = config_for(0, 6);
    const auto file = [&](std::size_t s, const char* kind, const std::string& path) {
      config.sources[s].kind = kind;
      config.sources[s].path = path;
    };
    file(0, "conversations", folder_.write("chats.jsonl", lines));
    file(1, "conversations", folder_.write("chats.json", list + "]"));
    file(2, "tar", folder_.write("shard.tar", make_tar(members)));
    file(3, "text", folder_.write("lines.txt", "one line\nanother line, longer\n" + std::string(700, 'x') + "\nlast"));
    for (int part = 0; part < 3; ++part) {
      folder_.write(fmt::format("part-{}.jsonl", part), chat_line(fmt::format("part-{}", part), images + pictures[0], "p") + "\n");
    }
    file(4, "conversations", folder_.path("part-*.jsonl"));
    config.sources[5].scenes.tasks = {{"caption", 2}, {"text", 1}};
    config.sources[5].scenes.widths = {56, 112};
    config.sources[5].scenes.heights = {84, 56};
    return config;
  }

  Sources open(const LoaderConfig& config) const {
    Sources sources;
    for (const SourceConfig& source : config.sources) sources.push_back(open_source(source, decode_options(encoder_.image())));
    return sources;
  }

  template <typename Wrapper, typename... Arguments>
  static Sources wrapped(Sources sources, const Arguments&... arguments) {
    for (auto& source : sources) source = std::make_unique<Wrapper>(std::move(source), arguments...);
    return sources;
  }

  static Sources captions(std::int64_t size = SampleSource::kEndless) {
    Sources sources;
    sources.push_back(std::make_unique<Captions>(size));
    return sources;
  }

  static bool every_ninth(std::int64_t index) { return index % 9 == 2; }

  std::vector<PackedBatch> packs(PackedLoader& loader, int count) const {
    std::vector<PackedBatch> result;
    for (int i = 0; i < count; ++i) result.push_back(loader.next());
    return result;
  }

  static void expect_equal(const PackedBatch& a, const PackedBatch& b) {
    EXPECT_EQ(a.sample_ids, b.sample_ids);
    EXPECT_EQ(a.input_ids, b.input_ids);
    EXPECT_EQ(a.position_ids, b.position_ids);
    EXPECT_EQ(a.labels, b.labels);
    EXPECT_EQ(a.loss_weights, b.loss_weights);
    EXPECT_EQ(a.segment_lengths, b.segment_lengths);
    EXPECT_EQ(a.grids, b.grids);
    EXPECT_TRUE(a.patches == b.patches);
    EXPECT_EQ(a.visual_positions, b.visual_positions);
    EXPECT_EQ(a.visual_rows, b.visual_rows);
    EXPECT_EQ(a.segment_slices, b.segment_slices);
  }

  TestFolder folder_;
  Tokenizer tokenizer_ = byte_tokenizer();
  PromptEncoder encoder_{tokenizer_, small_prompt(), small_images()};
};

TEST_F(RankReading, GivesThePacksThatDecodingEverythingGives) {
  LoaderConfig config = every_kind();
  PackedLoader decoding(config, wrapped<Decoding>(open(config)), encoder_);
  const std::vector<PackedBatch> expected = packs(decoding, 60);
  std::set<std::string> kinds;
  for (const PackedBatch& pack : expected) {
    for (const std::string& id : pack.sample_ids) kinds.insert(id.substr(0, id.find_first_of("-@")));
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"#0", "#1", "#3", "line", "list", "part", "scene", "tar"}));
  for (const std::int64_t workers : {0, 3}) {
    config.workers = workers;
    PackedLoader loader(config, encoder_);
    for (const PackedBatch& pack : expected) expect_equal(loader.next(), pack);
    EXPECT_EQ(loader.state().to_json(), decoding.state().to_json());
    EXPECT_EQ(loader.num_damaged(), 0);
    std::set<std::string> listed, wanted;
    for (const SkippedSample& sample : loader.skipped()) listed.insert(sample.place + sample.reason);
    for (const SkippedSample& sample : decoding.skipped()) wanted.insert(sample.place + sample.reason);
    EXPECT_EQ(listed, wanted);
  }
}

TEST_F(RankReading, DecodesEachPictureOnceOverAllRanks) {
  LoaderConfig config = every_kind();
  PackedLoader alone(config, encoder_);
  const std::vector<PackedBatch> whole = packs(alone, 40);
  std::map<std::string, int> with_picture;
  for (const PackedBatch& pack : whole) {
    for (std::size_t s = 0; s < pack.sample_ids.size(); ++s) {
      const std::string& id = pack.sample_ids[s];
      if (pack.segment_slices[s] > 0) ++with_picture[id.substr(0, id.rfind('@'))];
    }
  }
  for (const int num_ranks : {1, 2, 4}) {
    const auto reads = std::make_shared<Reads>();
    for (int rank = 0; rank < num_ranks; ++rank) {
      PackedLoader loader(config, wrapped<Counting>(open(config), reads), encoder_, rank, num_ranks);
      for (std::size_t i = static_cast<std::size_t>(rank); i < whole.size(); i += static_cast<std::size_t>(num_ranks)) {
        expect_equal(loader.next(), whole[i]);
      }
      EXPECT_EQ(loader.state().to_json(), alone.state().to_json());
    }
    EXPECT_EQ(reads->of_sample, with_picture) << num_ranks << " ranks";
  }
}

TEST_F(RankReading, DecodesOnePackAheadWhileTheLastIsUsed) {
  PackedLoader whole(config_for(0), captions(), encoder_);
  const auto reads = std::make_shared<Reads>();
  PackedLoader loader(config_for(2), wrapped<Counting>(captions(), reads), encoder_, 1, 2);
  int pictures = 0;
  for (int i = 0; i < 6; ++i) {
    whole.next();
    for (const std::int64_t slices : whole.next().segment_slices) pictures += slices > 0 ? 1 : 0;
    if (i < 5) loader.next();
  }
  for (int wait = 0; reads->total() < pictures && wait < 200; ++wait)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(reads->total(), pictures);  // of five packs that were used and the sixth
}

TEST_F(RankReading, ADamagedPictureIsDroppedAndEverythingElseStays) {
  PackedLoader clean(config_for(0), captions(200), encoder_);
  const std::vector<PackedBatch> whole = packs(clean, 24);
  const Captions source(200);
  std::vector<PackedBatch> expected;
  std::int64_t dropped = 0;
  for (const PackedBatch& pack : whole) {
    expected.emplace_back();
    for (const std::string& id : pack.sample_ids) {
      const std::int64_t index = std::stoll(id);
      if (every_ninth(index) && index % 5 != 4) {
        ++dropped;
      } else {
        append_sample(encode_sample(source.at(index), encoder_), expected.back());
      }
    }
  }
  ASSERT_GT(dropped, 10);
  for (const int num_ranks : {1, 2, 4}) {
    std::int64_t damaged = 0, packed = 0;
    std::map<std::string, int> listed;
    for (int rank = 0; rank < num_ranks; ++rank) {
      PackedLoader loader(config_for(rank % 3),
                          wrapped<DamagedBehindTheHeader>(captions(200), every_ninth),
                          encoder_,
                          rank,
                          num_ranks);
      for (std::size_t i = static_cast<std::size_t>(rank); i < whole.size(); i += static_cast<std::size_t>(num_ranks)) {
        expect_equal(loader.next(), expected[i]);
      }
      EXPECT_EQ(loader.state().to_json(), clean.state().to_json());
      EXPECT_EQ(loader.num_skipped(), loader.num_damaged());
      EXPECT_EQ(loader.num_samples(), clean.num_samples() - loader.num_damaged());
      damaged += loader.num_damaged();
      packed += loader.num_samples();
      EXPECT_EQ(loader.damaged().size(), loader.skipped().size());
      for (const SkippedSample& sample : loader.damaged()) {
        EXPECT_EQ(sample.reason, "damaged image: its pixels");
        ++listed[sample.place];
      }
    }
    EXPECT_EQ(damaged, dropped) << num_ranks << " ranks";
    EXPECT_GT(listed.size(), 10U);
  }
}

TEST_F(RankReading, APictureFileThatIsCutOffIsDroppedByTheRankThatNeedsIt) {
  const std::string jpeg = encode_jpeg(test_picture(64, 64), 90);
  folder_.write("good.jpg", jpeg);
  folder_.write("cut.jpg", jpeg.substr(0, jpeg.size() / 2));
  std::string lines;
  for (int i = 0; i < 30; ++i) lines += chat_line(fmt::format("s{}", i), i == 7 ? "cut.jpg" : "good.jpg", "A picture.") + "\n";
  LoaderConfig config = config_for(1);
  config.sources[0].kind = "conversations";
  config.sources[0].path = folder_.write("data.jsonl", lines);
  PackedLoader alone(config, encoder_);
  const std::vector<PackedBatch> whole = packs(alone, 12);
  ASSERT_EQ(alone.damaged().size(), 1U);
  EXPECT_EQ(alone.damaged()[0].place, "line 8");
  EXPECT_TRUE(alone.damaged()[0].reason.starts_with("damaged image: ")) << alone.damaged()[0].reason;
  std::int64_t damaged = 0;
  for (int rank = 0; rank < 2; ++rank) {
    PackedLoader loader(config, encoder_, rank, 2);
    for (std::size_t i = static_cast<std::size_t>(rank); i < whole.size(); i += 2) expect_equal(loader.next(), whole[i]);
    damaged += loader.num_damaged();
  }
  EXPECT_EQ(damaged, alone.num_damaged());
  EXPECT_GT(damaged, 0);
}

TEST_F(RankReading, APackThatLosesAllItsSamplesIsEmpty) {
  const auto large = [] {
    Sources sources;
    sources.push_back(std::make_unique<Captions>(1000, 200, 220));
    return sources;
  };
  LoaderConfig config = config_for(1);
  config.batch_tokens = config.max_tokens;  // one sample a pack
  PackedLoader clean(config, large(), encoder_);
  PackedLoader loader(config, wrapped<DamagedBehindTheHeader>(large(), every_ninth), encoder_);
  int empty = 0;
  for (int i = 0; i < 40; ++i) {
    const PackedBatch whole = clean.next(), pack = loader.next();
    ASSERT_EQ(whole.sample_ids.size(), 1U);
    const std::int64_t index = std::stoll(whole.sample_ids[0]);
    if (every_ninth(index) && index % 5 != 4) {
      ++empty;
      expect_equal(pack, PackedBatch{});
    } else {
      expect_equal(pack, whole);
    }
  }
  EXPECT_GT(empty, 1);
}

TEST_F(RankReading, ASourceWithoutDecodablePicturesIsAnErrorNotAnEndlessLoop) {
  for (const std::int64_t workers : {0, 2}) {
    PackedLoader loader(config_for(workers),
                        wrapped<DamagedBehindTheHeader>(captions(), [](std::int64_t) { return true; }),
                        encoder_,
                        1,
                        2);
    const std::string error = error_of([&] {
      for (int i = 0; i < 1000; ++i) loader.next();
    });
    EXPECT_NE(error.find("captions: no picture could be decoded among 1000 in a row; the last one: sample "), std::string::npos)
        << error;
  }
}

TEST_F(RankReading, APictureThatIsNotAsLargeAsItsHeaderSaysIsDropped) {
  class Changed : public Wrapped {
   public:
    using Wrapped::Wrapped;
    Sample at(std::int64_t index) const override {
      Sample sample = Wrapped::at(index);
      if (index == 3) sample.chat.images = {test_picture(300, 20)};
      return sample;
    }
  };
  PackedLoader loader(config_for(0), wrapped<Changed>(captions(50)), encoder_);
  packs(loader, 12);
  ASSERT_EQ(loader.damaged().size(), 1U);
  EXPECT_EQ(loader.damaged()[0].reason, "changed image: the decoded picture has not the size that its header gave");
}

TEST_F(RankReading, ContinuesInTheMiddleOnAnotherNumberOfRanks) {
  const auto sources = [] { return wrapped<DamagedBehindTheHeader>(captions(500), every_ninth); };
  PackedLoader alone(config_for(0), sources(), encoder_);
  const std::vector<PackedBatch> whole = packs(alone, 36);
  PackedLoader begun(config_for(2), sources(), encoder_, 0, 3);
  packs(begun, 4);
  const LoaderState state = LoaderState::from_json(parse_json(begun.state().to_json().dump(), "state"), "state");
  for (const int num_ranks : {1, 2, 4}) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      PackedLoader loader(config_for(rank), sources(), encoder_, rank, num_ranks);
      packs(loader, 2);  // a loader that stands elsewhere is set back
      loader.restore(state);
      EXPECT_EQ(loader.num_damaged(), 0);
      for (std::size_t i = 12 + static_cast<std::size_t>(rank); i < whole.size(); i += static_cast<std::size_t>(num_ranks)) {
        expect_equal(loader.next(), whole[i]);
      }
      EXPECT_EQ(loader.state().to_json(), alone.state().to_json());
    }
  }
}

TEST_F(RankReading, WhatGoesWrongAheadStopsNoPackBeforeIt) {
  std::vector<std::size_t> counts;
  for (const std::int64_t workers : {0, 2}) {
    Sources sources;
    sources.push_back(std::make_unique<MadeUpSource>("short", SampleSource::kEndless, [](std::int64_t i) {
      if (i >= 200) fail("nothing here");
      return document(std::to_string(i), 60);
    }));
    PackedLoader loader(config_for(workers), std::move(sources), encoder_);
    std::size_t count = 0;
    const auto use_all = [&] {
      while (true) {
        loader.next();
        ++count;
      }
    };
    EXPECT_NE(error_of(use_all).find("short: no usable sample among 1000 in a row"), std::string::npos);
    EXPECT_NE(error_of(use_all).find("short: no usable sample among 1000 in a row"), std::string::npos);
    EXPECT_EQ(loader.num_skipped(), 0);  // none before the last pack
    counts.push_back(count);
  }
  EXPECT_EQ(counts[0], counts[1]);
  EXPECT_GT(counts[0], 15U);
}

}  // namespace
}  // namespace pocketvlm
