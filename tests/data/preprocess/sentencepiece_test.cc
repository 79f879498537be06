// Our sentencepiece code against the sentencepiece library, on models trained here.

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"
#include "data/preprocess/tokenizer.h"
#include "data/preprocess/utf8.h"
#include "data/tokenizer_training/tokenizer_training.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// Letters of many scripts, digits, punctuation, emoji with joiners and selectors, and code points
/// at the edges of UTF-8's lengths.
constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 34> kScripts = {{
    {'a', 'z'},       {'a', 'z'},         {'a', 'e'},         {'A', 'Z'},        {'0', '9'},
    {0x21, 0x2F},     {0x3A, 0x40},       {0x5B, 0x60},       {0xC0, 0x17F},     {0x370, 0x3FF},
    {0x400, 0x45F},   {0x531, 0x586},     {0x5D0, 0x5EA},     {0x620, 0x64A},    {0x904, 0x939},
    {0x985, 0x9B9},   {0xB85, 0xBB9},     {0xE01, 0xE3A},     {0x10A0, 0x10FF},  {0x1200, 0x1248},
    {0x1780, 0x17B3}, {0x3041, 0x3096},   {0x30A1, 0x30FA},   {0x4E00, 0x4E80},  {0x9F00, 0x9FFF},
    {0xAC00, 0xAC80}, {0x1F600, 0x1F64F}, {0x1F300, 0x1F5FF}, {0x200B, 0x200F},  {0xFE00, 0xFE0F},
    {0x2580, 0x2583}, {0x300, 0x36F},     {0x7F, 0x81},       {0xFFF0, 0x10010},
}};

std::size_t below(Random& random, std::size_t n) {
  return static_cast<std::size_t>(random.below(static_cast<std::int64_t>(n)));
}

std::string random_word(Random& random) {
  const auto [first, last] = kScripts[below(random, kScripts.size())];
  std::string word;
  for (std::size_t n = 1 + below(random, 8); n > 0; --n) {
    append_utf8(first + static_cast<std::uint32_t>(below(random, last - first + 1)), word);
  }
  return word;
}

const std::vector<std::string> kSpecials = {"<image>",
                                            "</image>",
                                            "<slice>",
                                            "</slice>",
                                            "<image_id>",
                                            "</image_id>",
                                            "<|im_start|>",
                                            "<|im_end|>",
                                            "<s>",
                                            "</s>",
                                            "<unk>",
                                            "<0x0A>",
                                            "<0xFF>"};

/// A text of words of several scripts, runs of whitespace, special pieces whole and cut, and bytes
/// that are no UTF-8.
std::string random_text(Random& random) {
  static const std::vector<std::string> kSpaces = {" ",
                                                   " ",
                                                   " ",
                                                   " ",
                                                   "  ",
                                                   "   ",
                                                   "\n",
                                                   "\t",
                                                   "\r\n",
                                                   "\xC2\xA0",
                                                   "\xE3\x80\x80",
                                                   "\xE2\x96\x81",
                                                   "",
                                                   "",
                                                   std::string(1, '\0')};
  std::string text;
  for (std::size_t n = below(random, 12); n > 0; --n) {
    const std::size_t kind = below(random, 20);
    if (kind == 0) {
      text += static_cast<char>(0x80 + random.below(128));
    } else if (kind == 1) {
      const std::string word = random_word(random);
      text += word.substr(0, 1 + below(random, word.size()));
    } else if (kind == 2) {
      text += kSpecials[below(random, kSpecials.size())];
    } else if (kind == 3) {
      const std::string& special = kSpecials[below(random, kSpecials.size())];
      text += special.substr(0, 1 + below(random, special.size()));
    } else {
      text += random_word(random);
    }
    text += kSpaces[below(random, kSpaces.size())];
  }
  return text;
}

std::function<bool(std::string&)> corpus(std::uint64_t seed, int sentences) {
  return [random = Random({seed}), left = sentences](std::string& sentence) mutable {
    if (left-- == 0) return false;
    // A small set of words, so that there is something to merge.
    sentence = "the cat sits on  a red mat; 12 birds and 3 dogs  ";
    for (int i = 0; i < 6; ++i) {
      Random word({static_cast<std::uint64_t>(random.below(400))});
      sentence += random_word(word) + " ";
    }
    return true;
  };
}

std::string temporary(const std::string& name) {
  return (fs::path(testing::TempDir()) / name).string();
}

/// Compares ids and decoded text on random texts; returns how many ids there were.
std::size_t expect_same(const std::string& model,
                        int texts,
                        std::uint64_t seed,
                        Tokenizer& ours,
                        sentencepiece::SentencePieceProcessor& library) {
  Random random({seed});
  std::size_t ids = 0;
  int failures = 0;
  for (int i = 0; i < texts && failures < 5; ++i) {
    const std::string text = random_text(random);
    std::vector<int> expected;
    EXPECT_TRUE(library.Encode(text, &expected).ok());
    const std::vector<std::int32_t> got = ours.encode(text);
    ids += got.size();
    std::string decoded;
    EXPECT_TRUE(library.Decode(expected, &decoded).ok());
    if (got != expected || ours.decode(got) != decoded) ++failures;
    EXPECT_EQ(got, expected) << model << ", text " << i << ": [" << text << "]";
    EXPECT_EQ(ours.decode(got), decoded) << model << ", text " << i << ": [" << text << "]";
  }
  return ids;
}

Tokenizer ours_of(const std::string& bytes) {
  return Tokenizer(
      read_sentencepiece_model(std::as_bytes(std::span(bytes.data(), bytes.size())), "model"),
      "model");
}

/// Trains with the library's own words, for settings that train_tokenizer does not offer.
std::string train_variant(const std::unordered_map<std::string, std::string>& changes) {
  std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", "1600"},
      {"character_coverage", "0.98"},
      {"normalization_rule_name", "identity"},
      {"byte_fallback", "true"},
      {"num_threads", "1"},
      {"minloglevel", "2"},
      {"user_defined_symbols", "<image>,</image>,<|im_end|>,the,the cat,\xE2\x96\x81red,ab,abc"}};
  for (const auto& [key, value] : changes) arguments[key] = value;
  struct Lines : sentencepiece::SentenceIterator {
    std::function<bool(std::string&)> next = corpus(5, 2000);
    std::string line;
    bool end = !next(line);
    bool done() const override { return end; }
    void Next() override { end = !next(line); }
    const std::string& value() const override { return line; }
    sentencepiece::util::Status status() const override { return {}; }
  } lines;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &lines, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

class TrainedTokenizer : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    path_ = temporary("trained_tokenizer.model");
    config_.vocab_size = 1200;
    config_.character_coverage = 0.99;
    train_tokenizer(config_, corpus(1, 3000), path_);
  }
  static inline std::string path_;
  static inline TokenizerTrainingConfig config_;
};

TEST_F(TrainedTokenizer, EqualsTheLibraryOnTenThousandMixedTexts) {
  Tokenizer ours = Tokenizer::load(path_);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(path_).ok());
  EXPECT_GT(expect_same(path_, 10000, 11, ours, library), 200000u);
}

TEST_F(TrainedTokenizer, DiffersFromTheLibraryWhenOneScoreChanges) {
  Vocabulary vocabulary = Tokenizer::load(path_).vocabulary();
  // The first learned piece becomes the last to be merged.
  const std::size_t first = 3 + config_.special_pieces.size() + 256;
  vocabulary.scores[first] = -1e6f;
  const Tokenizer ours(vocabulary);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(path_).ok());
  Random random({11});
  int different = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_text(random) + " the cat sits on a mat";
    std::vector<int> expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    different += ours.encode(text) != expected ? 1 : 0;
  }
  EXPECT_GT(different, 0);
}

TEST_F(TrainedTokenizer, HasTheIdsAndPiecesThatTheTemplatesNeed) {
  const Tokenizer ours = Tokenizer::load(path_);
  EXPECT_EQ(ours.size(), 1200);
  EXPECT_EQ(ours.find("<unk>"), 0);
  EXPECT_EQ(ours.find("<s>"), 1);
  EXPECT_EQ(ours.find("</s>"), 2);
  EXPECT_EQ(ours.vocabulary().bos_id, 1);
  EXPECT_EQ(ours.vocabulary().eos_id, 2);
  std::int32_t id = 3;
  for (const std::string& piece : config_.special_pieces) {
    EXPECT_EQ(ours.find(piece), id);
    EXPECT_EQ(ours.vocabulary().types[static_cast<std::size_t>(id)], TokenType::kUserDefined);
    ++id;
  }
  EXPECT_EQ(ours.find("<0x00>"), id);
  EXPECT_FALSE(ours.vocabulary().remove_extra_whitespaces);
  const auto digits = ours.encode("1234567");
  EXPECT_GE(digits.size(), 7u);
}

TEST_F(TrainedTokenizer, GivesBackEveryTextThatHasNoSpaceMarkAndIsUtf8) {
  const Tokenizer ours = Tokenizer::load(path_);
  Random random({3});
  int checked = 0;
  for (int i = 0; i < 5000; ++i) {
    const std::string text = random_text(random);
    if (replace_invalid_utf8(text) != text || text.find("\xE2\x96\x81") != text.npos) continue;
    EXPECT_EQ(ours.decode(ours.encode(text)), text);
    std::string streamed;
    for (const std::int32_t id : ours.encode(text)) streamed += ours.piece_text(id);
    EXPECT_EQ(streamed, text.empty() ? text : " " + text);
    EncodeOptions plain;
    plain.specials = SpecialPieces::kNone;
    const auto ids = ours.encode(text, plain);
    EXPECT_EQ(ours.decode(ids), text);
    for (const std::int32_t id : ids) EXPECT_TRUE(id < 1 || id >= 11) << text;
    ++checked;
  }
  EXPECT_GT(checked, 2000);
}

TEST_F(TrainedTokenizer, IsTheSameFileForTheSameText) {
  const std::string again = temporary("trained_again.model");
  train_tokenizer(config_, corpus(1, 3000), again);
  EXPECT_EQ(read_file(again), read_file(path_));
  train_tokenizer(config_, corpus(2, 3000), again);
  EXPECT_NE(read_file(again), read_file(path_));
}

TEST(TokenizerTraining, EqualsTheLibraryForEverySettingThatIsRead) {
  using Changes = std::unordered_map<std::string, std::string>;
  const std::vector<Changes> variants = {
      {{"remove_extra_whitespaces", "true"}},
      {{"remove_extra_whitespaces", "false"}, {"add_dummy_prefix", "false"}},
      {{"remove_extra_whitespaces", "true"},
       {"add_dummy_prefix", "false"},
       {"byte_fallback", "false"}},
      {{"remove_extra_whitespaces", "false"},
       {"byte_fallback", "false"},
       {"user_defined_symbols", ""}},
      {{"split_by_whitespace", "false"},
       {"bos_id", "-1"},
       {"pad_id", "3"},
       {"control_symbols", "<ctl>"}},
  };
  for (const Changes& changes : variants) {
    const std::string model = train_variant(changes);
    Tokenizer ours = ours_of(model);
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
    EXPECT_EQ(ours.vocabulary().bos_id, library.bos_id());
    EXPECT_EQ(ours.vocabulary().eos_id, library.eos_id());
    EXPECT_EQ(ours.vocabulary().pad_id, library.pad_id());
    EXPECT_EQ(ours.vocabulary().unk_id, library.unk_id());
    expect_same(changes.begin()->first, 3000, 17, ours, library);
  }
}

TEST(TokenizerTraining, TakesUnusedPiecesApartAsTheLibraryDoes) {
  const std::string model =
      train_variant({{"byte_fallback", "false"}, {"remove_extra_whitespaces", "false"}});
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
  Vocabulary vocabulary = ours_of(model).vocabulary();
  std::vector<std::string> valid;
  for (std::size_t i = 0; i < vocabulary.pieces.size(); i += 3)
    valid.push_back(vocabulary.pieces[i]);
  ASSERT_TRUE(library.SetVocabulary({valid.begin(), valid.end()}).ok());
  int unused = 0;
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    if (!library.IsUnused(static_cast<int>(i))) continue;
    vocabulary.types[i] = TokenType::kUnused;
    ++unused;
  }
  EXPECT_GT(unused, 100);
  Tokenizer ours(vocabulary);
  expect_same("unused", 3000, 23, ours, library);
}

TEST(TokenizerTraining, EqualsTheLibraryOnTheLlamaVocabulary) {
  const std::string path = SOURCE_ROOT "/../shared/data/tokenizers/llama2-32000.rebuilt.model";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is not on this machine";
  Tokenizer ours = Tokenizer::load(path);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(path).ok());
  expect_same(path, 10000, 29, ours, library);
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(TokenizerTraining, RefusesNormalisersThatRewriteCharacters) {
  const std::string model = train_variant({{"normalization_rule_name", "nmt_nfkc"}});
  const std::string error = error_of([&] { ours_of(model); });
  EXPECT_NE(error.find("nmt_nfkc"), error.npos) << error;
  EXPECT_NE(error.find("--normalization_rule_name=identity"), error.npos) << error;
}

TEST(TokenizerTraining, RefusesUnigramModels) {
  const std::string model =
      train_variant({{"model_type", "unigram"}, {"hard_vocab_limit", "false"}});
  const std::string error = error_of([&] { ours_of(model); });
  EXPECT_NE(error.find("unigram"), error.npos) << error;
  EXPECT_NE(error.find("--model_type=bpe"), error.npos) << error;
}

TEST(TokenizerTraining, DamagedModelsGiveAnErrorOrAVocabularyButNeverACrash) {
  const std::string model = train_variant({});
  Random random({31});
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = model;
    if (i % 2 == 0) damaged.resize(below(random, damaged.size()));
    for (int n = 0; n < 3 && !damaged.empty(); ++n)
      damaged[below(random, damaged.size())] = static_cast<char>(random.below(256));
    try {
      ours_of(damaged).encode("the cat sits on a mat");
    } catch (const Error&) {
    }
  }
}

TEST(TokenizerTraining, SaysWhatIsWrongWithItsInput) {
  TokenizerTrainingConfig config;
  const std::string path = temporary("never_written.model");
  const auto train = [&](int sentences) {
    return error_of([&] { train_tokenizer(config, corpus(1, sentences), path); });
  };
  EXPECT_NE(train(0).find("no text"), std::string::npos) << train(0);
  config.vocab_size = 100000;
  EXPECT_NE(train(5).find("lower tokenizer.vocab_size"), std::string::npos) << train(5);
  config.vocab_size = 300;
  EXPECT_NE(train(2000).find("raise tokenizer.vocab_size"), std::string::npos) << train(2000);
  config.vocab_size = 262;
  EXPECT_NE(train(5).find("raise it"), std::string::npos) << train(5);
  config = {};
  config.special_pieces.push_back("<image>");
  EXPECT_NE(train(5).find("twice"), std::string::npos) << train(5);
  config.special_pieces.back() = "a,b";
  EXPECT_NE(train(5).find("comma"), std::string::npos) << train(5);
  EXPECT_FALSE(fs::exists(path));
  const std::string from_source = error_of([&] {
    train_tokenizer(
        TokenizerTrainingConfig{}, [](std::string&) -> bool { fail("source: broken"); }, path);
  });
  EXPECT_EQ(from_source, "source: broken");
}

}  // namespace
}  // namespace pocketvlm
