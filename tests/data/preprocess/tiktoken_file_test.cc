#include "data/preprocess/tiktoken_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/base64.h"
#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "data/preprocess/byte_level_bpe.h"

/// The vocabulary of tests/golden/make_byte_level_bpe.py in tiktoken's form: its pieces stand in the order of their merges, so both
/// forms mean the same.
namespace pocketvlm {
namespace {

class TiktokenFile : public testing::Test {
 protected:
  TiktokenFile() : golden_(read_json(TEST_DATA "/data/preprocess/byte_level_bpe_golden.json").at("qwen2")) {
    Vocabulary vocabulary;
    vocabulary.pre = "qwen2";
    vocabulary.pieces = golden_.at("pieces").get<std::vector<std::string>>();
    vocabulary.types.assign(vocabulary.pieces.size(), TokenType::kNormal);
    const ByteLevelBpe bytes(vocabulary, "golden");
    const auto specials = golden_.at("specials").get<std::vector<std::string>>();
    Json added = Json::object();
    for (std::size_t id = 0; id < vocabulary.pieces.size(); ++id) {
      const std::string& piece = vocabulary.pieces[id];
      if (std::find(specials.begin(), specials.end(), piece) != specials.end()) {
        added[std::to_string(id)] = {{"content", piece}, {"special", false}};
      } else {
        text_ += encode_base64(bytes.bytes_of(piece)) + " " + std::to_string(id) + "\n";
      }
    }
    settings_ = Json{{"tokenizer_class", "Qwen2Tokenizer"}, {"added_tokens_decoder", added}}.dump();
  }

  std::string error_of(const std::string& text, const std::string& settings) const {
    try {
      read_tiktoken_file(text, settings, "t.tiktoken");
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  Json golden_;
  std::string text_, settings_;
};

TEST_F(TiktokenFile, GivesTheIdsOfTheReference) {
  const std::string folder = testing::TempDir() + "/tiktoken_folder";
  std::filesystem::remove_all(folder);
  write_file_atomic(folder + "/qwen.tiktoken", text_);
  write_file_atomic(folder + "/tokenizer_config.json", settings_);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  for (const Json& item : golden_.at("cases")) {
    EXPECT_EQ(tokenizer.encode(item.at("text").get<std::string>()), item.at("ids").get<std::vector<std::int32_t>>())
        << item.at("text").dump();
  }
  std::filesystem::remove_all(folder);
}

TEST_F(TiktokenFile, TheNumberOfRanksTellsThePublishedVocabularies) {
  const auto ranks = [&](int count) {
    std::string text = text_;
    const auto known = std::count(text.begin(), text.end(), '\n');
    for (int i = static_cast<int>(known); i < count; ++i) text += encode_base64("zzz" + std::to_string(i)) + " " + std::to_string(i) + "\n";
    return text;
  };
  const Vocabulary llama = read_tiktoken_file(ranks(128000), "", "t");
  EXPECT_EQ(llama.pre, "llama-bpe");
  EXPECT_FALSE(llama.nfc);
  ASSERT_EQ(llama.pieces.size(), 128256U);
  EXPECT_EQ(llama.pieces[128006], "<|start_header_id|>");
  EXPECT_EQ(llama.pieces[128009], "<|eot_id|>");
  EXPECT_EQ(llama.pieces[128010], "<|reserved_special_token_5|>");
  EXPECT_EQ(llama.pieces[128255], "<|reserved_special_token_250|>");
  EXPECT_EQ(llama.bos_id, 128000);
  EXPECT_EQ(llama.eos_id, 128001);
  const Vocabulary qwen = read_tiktoken_file(ranks(151643), "", "t");
  EXPECT_EQ(qwen.pre, "qwen2");
  EXPECT_TRUE(qwen.nfc);
  ASSERT_EQ(qwen.pieces.size(), 151646U);
  EXPECT_EQ(qwen.pieces[151645], "<|im_end|>");
  EXPECT_EQ(qwen.eos_id, 151645);
}

TEST_F(TiktokenFile, MistakesAreNamed) {
  EXPECT_NE(error_of(text_, "").find("ranks belong to no vocabulary that is known (Llama 3 has 128000, Qwen2 151643)"), std::string::npos);
  EXPECT_EQ(error_of("IQ== 0\nIg== 2\n", ""), "t.tiktoken:2: expected a piece in base64, a space and the rank 1; fetch the file again");
  EXPECT_NE(error_of("IQ== 0\nIg= 1\n", "").find("t.tiktoken:2:"), std::string::npos);
  EXPECT_NE(error_of("IQ== 0\n!!== 1\n", "").find("t.tiktoken:2:"), std::string::npos);
  EXPECT_TRUE(is_tiktoken_file("IQ== 0\n"));
  EXPECT_FALSE(is_tiktoken_file("IQ== x\n"));
  EXPECT_FALSE(is_tiktoken_file(""));
  EXPECT_FALSE(is_tiktoken_file("{\"a\": 1}"));
}

}  // namespace
}  // namespace pocketvlm
