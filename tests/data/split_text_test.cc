#include "data/split_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "data/packed_loader.h"
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

class SplitText : public testing::Test {
 protected:
  EncodedSample encoded(std::size_t bytes) const { return encode_sample(document("x", bytes), encoder_); }

  static LoaderConfig config_for(const std::string& long_text, std::int64_t workers = 0) {
    LoaderConfig config;
    config.sources.resize(1);
    config.batch_tokens = 300;
    config.max_tokens = 100;
    config.long_text = long_text;
    config.look_ahead = 12;
    config.workers = workers;
    config.seed = 5;
    return config;
  }

  static std::vector<std::unique_ptr<SampleSource>> documents(std::int64_t size) {
    std::vector<std::unique_ptr<SampleSource>> sources;
    sources.push_back(std::make_unique<MadeUpSource>("documents", size, [](std::int64_t i) {
      return document(std::to_string(i), static_cast<std::size_t>(i % 5 == 2 ? 400 + 61 * (i % 17) : 10 + i % 70));
    }));
    return sources;
  }

  Tokenizer tokenizer_ = byte_tokenizer();
  PromptEncoder encoder_{tokenizer_, small_prompt(), small_images()};
};

TEST_F(SplitText, LosesAndRepeatsNoTokenAndNoTarget) {
  for (const std::size_t bytes : {1U, 5U, 8U, 9U, 98U, 99U, 150U, 1000U}) {
    const EncodedSample whole = encoded(bytes);
    for (const std::int64_t most : {8, 30, 100}) {
      const std::vector<EncodedSample> pieces = split_text(whole, most);
      std::vector<std::int32_t> ids, labels;
      for (const EncodedSample& piece : pieces) {
        EXPECT_LE(piece.num_tokens(), most);
        EXPECT_GE(piece.num_tokens(), std::min(most / 2, whole.num_tokens()));
        ids.insert(ids.end(), piece.chat.ids.begin(), piece.chat.ids.end());
        const std::vector<std::int32_t> of_piece = labels_of(piece.chat);
        labels.insert(labels.end(), of_piece.begin(), of_piece.end());
      }
      EXPECT_EQ(ids, whole.chat.ids);
      EXPECT_EQ(labels, labels_of(whole.chat));
    }
  }
}

TEST_F(SplitText, NamesThePieces) {
  const std::vector<EncodedSample> pieces = split_text(encoded(150), 100);
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0].id, "x, piece 1 of 2");
  EXPECT_EQ(pieces[1].id, "x, piece 2 of 2");
  EXPECT_EQ(split_text(encoded(50), 100)[0].id, "x");
}

/// What a loader hands out of each document, in the order of its pieces: ids, then labels.
using Texts = std::map<std::string, std::map<int, std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>>>>;

void collect(const PackedBatch& pack, Texts& texts) {
  std::ptrdiff_t token = 0;
  for (std::size_t s = 0; s < pack.sample_ids.size(); ++s) {
    const std::string& id = pack.sample_ids[s];
    const std::size_t comma = id.find(", piece ");
    const int piece = comma == std::string::npos ? 0 : std::stoi(id.substr(comma + 8));
    const std::ptrdiff_t end = token + pack.segment_lengths[s];
    auto& pieces = texts[id.substr(0, comma)];
    EXPECT_FALSE(pieces.contains(piece)) << id << " came twice";
    pieces[piece] = {{pack.input_ids.begin() + token, pack.input_ids.begin() + end},
                     {pack.labels.begin() + token, pack.labels.begin() + end}};
    token = end;
  }
}

TEST_F(SplitText, ALoaderTeachesWholeDocumentsInPieces) {
  PackedLoader loader(config_for("split"), documents(SampleSource::kEndless), encoder_);
  Texts texts;
  std::int64_t tokens = 0;
  for (int i = 0; i < 200; ++i) {
    const PackedBatch pack = loader.next();
    tokens += pack.num_tokens();
    collect(pack, texts);
  }
  EXPECT_GT(static_cast<double>(tokens), 0.97 * 200 * 300);
  const LoaderState state = loader.state();
  std::int64_t split = 0;
  for (const auto& [id, pieces] : texts) {
    const std::int64_t index = std::stoll(id);
    if (std::count(state.pending.begin(), state.pending.end(), index) > 0) continue;  // in part
    split += index % 5 == 2 ? 1 : 0;
    const EncodedSample whole = encode_sample(documents(SampleSource::kEndless)[0]->at(index), encoder_);
    const std::vector<std::int32_t> labels = labels_of(whole.chat);
    std::vector<std::int64_t> all_ids, all_labels;
    for (const auto& [piece, content] : pieces) {
      all_ids.insert(all_ids.end(), content.first.begin(), content.first.end());
      all_labels.insert(all_labels.end(), content.second.begin(), content.second.end());
    }
    EXPECT_EQ(all_ids, std::vector<std::int64_t>(whole.chat.ids.begin(), whole.chat.ids.end())) << id;
    EXPECT_EQ(all_labels, std::vector<std::int64_t>(labels.begin(), labels.end())) << id;
  }
  EXPECT_GT(split, 20);
  EXPECT_GE(state.num_split, split);
  EXPECT_EQ(state.num_skipped, 0);
}

TEST_F(SplitText, LongDocumentsAreRefusedUnlessAskedFor) {
  PackedLoader loader(config_for("refuse"), documents(50), encoder_);
  for (int i = 0; i < 20; ++i) loader.next();
  EXPECT_EQ(loader.skipped().size(), 10U);
  EXPECT_EQ(loader.state().num_split, 0);
}

TEST_F(SplitText, OnlyDocumentsAreSplit) {
  std::vector<std::unique_ptr<SampleSource>> sources;
  sources.push_back(std::make_unique<MadeUpSource>("chats", 10, [](std::int64_t i) {
    Sample sample = document(std::to_string(i), i == 3 ? 500 : 20);
    sample.chat.turns.insert(sample.chat.turns.begin(), {"user", "What?"});
    if (i == 4) sample.chat.images = std::vector<Image>(9, test_picture(80, 80));
    return sample;
  }));
  PackedLoader loader(config_for("split"), std::move(sources), encoder_);
  for (int i = 0; i < 5; ++i) loader.next();
  ASSERT_EQ(loader.skipped().size(), 2U);
  for (const SkippedSample& sample : loader.skipped()) EXPECT_TRUE(sample.reason.starts_with("too long: ")) << sample.reason;
}

TEST_F(SplitText, ContinuesInTheMiddleOfADocument) {
  PackedLoader whole(config_for("split"), documents(300), encoder_);
  int in_the_middle = 0;
  for (int stop = 0; stop < 30; ++stop) {
    const LoaderState state = LoaderState::from_json(parse_json(whole.state().to_json().dump(), "state"), "state");
    in_the_middle += state.pieces.empty() ? 0 : 1;
    PackedLoader again(config_for("split", stop % 3), documents(300), encoder_);
    again.restore(state);
    EXPECT_EQ(again.state().to_json(), state.to_json());
    PackedLoader rest(config_for("split"), documents(300), encoder_);
    rest.restore(state);
    for (int i = 0; i < 8; ++i) {
      const PackedBatch a = again.next(), b = rest.next();
      EXPECT_EQ(a.sample_ids, b.sample_ids);
      EXPECT_EQ(a.labels, b.labels);
      if (i == 0) {
        const PackedBatch c = whole.next();
        EXPECT_EQ(a.sample_ids, c.sample_ids);
        EXPECT_EQ(a.input_ids, c.input_ids);
        EXPECT_EQ(a.labels, c.labels);
        EXPECT_EQ(again.state().to_json(), whole.state().to_json());
      }
    }
  }
  EXPECT_GT(in_the_middle, 10);
}

TEST_F(SplitText, AStateWithPiecesThatDoNotExistIsRefused) {
  PackedLoader loader(config_for("split"), documents(300), encoder_);
  LoaderState state;
  state.next_position = 10;
  state.pending = {3, 4};
  state.pieces = {0};
  EXPECT_NE(error_of([&] { loader.restore(state); }).find("pieces: 1 of them for 2 pending samples"), std::string::npos);
  state.pieces = {50, 0};
  loader.restore(state);
  EXPECT_NE(error_of([&] { loader.next(); }).find("its checkpoint waits for piece 51; the data have changed"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
