// Byte-level BPE against Hugging Face's tokenizers library (tests/golden/make_byte_level_bpe.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "data/preprocess/split_words.h"
#include "data/preprocess/tokenizer.h"
#include "data/preprocess/unicode_normalization.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

Json golden() { return read_json(TEST_DATA "/data/preprocess/byte_level_bpe_golden.json"); }

Vocabulary vocabulary_of(const std::string& rule, const Json& entry) {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = rule;
  vocabulary.nfc = rule == "qwen2";
  vocabulary.whole_words = rule == "llama-bpe";
  vocabulary.add_space_prefix = false;
  vocabulary.pieces = entry.at("pieces").get<std::vector<std::string>>();
  vocabulary.merges = entry.at("merges").get<std::vector<std::string>>();
  const auto specials = entry.at("specials").get<std::vector<std::string>>();
  for (const std::string& piece : vocabulary.pieces) {
    const bool special = std::find(specials.begin(), specials.end(), piece) != specials.end();
    vocabulary.types.push_back(special ? TokenType::kUserDefined : TokenType::kNormal);
  }
  return vocabulary;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

class ByteLevelRule : public testing::TestWithParam<const char*> {};

TEST_P(ByteLevelRule, GivesTheIdsOfTheReference) {
  const Json entry = golden().at(GetParam());
  const Tokenizer tokenizer(vocabulary_of(GetParam(), entry));
  ASSERT_EQ(entry.at("cases").size(), 250u);
  for (const Json& item : entry.at("cases")) {
    const auto text = item.at("text").get<std::string>();
    const auto ids = tokenizer.encode(text);
    EXPECT_EQ(ids, item.at("ids").get<std::vector<std::int32_t>>()) << "[" << text << "]";
    EXPECT_EQ(tokenizer.decode(ids), tokenizer.vocabulary().nfc ? normalize_nfc(text) : text);
  }
}

TEST(ByteLevelBpe, NormalFormMattersToTheReference) {
  const Json entry = golden().at("qwen2");
  Vocabulary vocabulary = vocabulary_of("qwen2", entry);
  vocabulary.nfc = false;
  const Tokenizer without(vocabulary);
  int different = 0;
  for (const Json& item : entry.at("cases")) {
    different += without.encode(item.at("text").get<std::string>()) != item.at("ids").get<std::vector<std::int32_t>>() ? 1 : 0;
  }
  EXPECT_GT(different, 20);
}

TEST_P(ByteLevelRule, DiffersFromTheReferenceWhenOneMergeIsGone) {
  const Json entry = golden().at(GetParam());
  Vocabulary vocabulary = vocabulary_of(GetParam(), entry);
  vocabulary.merges[0] = vocabulary.merges[1];
  const Tokenizer tokenizer(vocabulary);
  int different = 0;
  for (const Json& item : entry.at("cases")) {
    different += tokenizer.encode(item.at("text").get<std::string>()) !=
                         item.at("ids").get<std::vector<std::int32_t>>()
                     ? 1
                     : 0;
  }
  EXPECT_GT(different, 0);
}

INSTANTIATE_TEST_SUITE_P(ByteLevelBpe,
                         ByteLevelRule,
                         testing::Values("llama-bpe", "qwen2", "smollm"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(ByteLevelBpe, ReplacesInvalidUtf8) {
  const Tokenizer tokenizer(vocabulary_of("qwen2", golden().at("qwen2")));
  EXPECT_EQ(tokenizer.encode("a\xFF\xE4\xB8z"),
            tokenizer.encode("a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz"));
}

TEST(ByteLevelBpe, EncodesAMegabyteOfOneWordInASecond) {
  const Tokenizer tokenizer(vocabulary_of("qwen2", golden().at("qwen2")));
  const std::string word(1 << 20, 'a');
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(word)), word);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(spaces)), spaces);
}

TEST(ByteLevelBpe, NamesWhatAVocabularyLacks) {
  const Json entry = golden().at("qwen2");
  const auto error = [&](const std::function<void(Vocabulary&)>& change) {
    Vocabulary vocabulary = vocabulary_of("qwen2", entry);
    change(vocabulary);
    return error_of([&] { Tokenizer tokenizer(vocabulary, "file.gguf"); });
  };
  EXPECT_EQ(error([](Vocabulary&) {}), "no error");
  EXPECT_EQ(error([](Vocabulary& v) { v.pre = "gpt-4o"; }),
            "file.gguf: the pre-tokenizer \"gpt-4o\" is not known; known are llama-bpe, qwen2 and "
            "smollm");
  EXPECT_EQ(error([](Vocabulary& v) { v.merges[7] = "a"; }),
            "file.gguf: merge 7 is \"a\", not two pieces with a space between them");
  EXPECT_NE(error([](Vocabulary& v) { v.merges[7] = "a \xE2\x82\xAC"; }).find("merge 7"),
            std::string::npos);
  EXPECT_NE(error([](Vocabulary& v) {
              v.pieces[static_cast<std::size_t>(std::find(v.pieces.begin(), v.pieces.end(), "A") -
                                                v.pieces.begin())] = "AAAA!";
            }).find("byte 0x41 has no piece"),
            std::string::npos);
  EXPECT_EQ(error([](Vocabulary& v) {
              v.pieces[3] = v.pieces[2];
            }).find("file.gguf: pieces 2 and 3 are both"),
            0u);
  EXPECT_EQ(error([](Vocabulary& v) { v.types.pop_back(); }).find("file.gguf: "), 0u);
  EXPECT_EQ(error([](Vocabulary& v) {
              v.model = "wordpiece";
            }).find("file.gguf: the vocabulary model \"wordpiece\" is not supported"),
            0u);
  EXPECT_EQ(error([](Vocabulary& v) { v.eos_id = 1 << 20; }).find("file.gguf: eos_id is 1048576"),
            0u);
}

}  // namespace
}  // namespace pocketvlm
