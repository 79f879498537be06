#include "data/preprocess/tokenizer_json.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

std::string error_of(const Json& json) {
  try {
    read_tokenizer_json(json.dump(), "", "t.json");
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

/// The 256 byte pieces at ids 0 .. 255, then merges of "ab", " ab" and "abab" (the space is spelled U+0120).
Json byte_level(const char* pattern) {
  Json vocab = Json::object();
  std::uint32_t spare = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string piece;
    append_utf8(printable ? byte : spare++, piece);
    vocab[piece] = byte;
  }
  vocab["ab"] = 256;
  vocab["\xc4\xa0" "ab"] = 257;
  vocab["abab"] = 258;
  return {{"added_tokens",
           {{{"id", 260}, {"content", "<|end|>"}, {"special", true}}, {{"id", 261}, {"content", "<box>"}, {"special", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
                               {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
          {"model",
           {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", Json::array({"\xc4\xa0", "ab"}), "ab ab"}}}}};
}

const char* const kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kLlama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

TEST(TokenizerJson, ByteLevelPiecesMergesAndAddedTokens) {
  const Vocabulary vocabulary = read_tokenizer_json(byte_level(kQwen2).dump(), "", "t.json");
  EXPECT_EQ(vocabulary.pre, "qwen2");
  EXPECT_EQ(vocabulary.pieces.size(), 262U);
  EXPECT_EQ(vocabulary.pieces[259], "[PAD259]");
  EXPECT_EQ(vocabulary.types[259], TokenType::kUnused);
  const Tokenizer tokenizer(vocabulary);
  EXPECT_EQ(tokenizer.encode("ab ab<box>"), (std::vector<std::int32_t>{256, 257, 261}));
  EXPECT_EQ(tokenizer.encode("abab<|end|>", true), (std::vector<std::int32_t>{258, 260}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab \xe4\xbd\xa0 abab")), "ab \xe4\xbd\xa0 abab");
  EXPECT_EQ(read_tokenizer_json(byte_level(kLlama3).dump(), "", "t.json").pre, "llama-bpe");
}

/// SmolLM2's vocabulary lacks some control bytes.
TEST(TokenizerJson, BytesWithoutAPieceAreLeftOut) {
  Json json = byte_level(kQwen2);
  json["model"]["vocab"].erase("\xc4\x84");  // U+0104 spells byte 4
  const Tokenizer tokenizer(read_tokenizer_json(json.dump(), "", "t.json"));
  EXPECT_EQ(tokenizer.encode("a\x04" "b"), (std::vector<std::int32_t>{'a', 'b'}));
  EXPECT_TRUE(tokenizer.encode("\x04").empty());
}

TEST(TokenizerJson, TheSettingsBesideItNameTheSpecialTokens) {
  const Vocabulary vocabulary = read_tokenizer_json(
      byte_level(kLlama3).dump(), R"({"bos_token": {"content": "<box>"}, "eos_token": "<|end|>", "add_bos_token": false,
                                         "model_max_length": 1000000000000000019884624838656})", "t.json");
  EXPECT_EQ(vocabulary.bos_id, 261);
  EXPECT_EQ(vocabulary.eos_id, 260);
  EXPECT_FALSE(vocabulary.add_bos);
  try {
    read_tokenizer_json(byte_level(kLlama3).dump(), "{", "t.json");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("t.json (tokenizer_config.json): is no JSON: ")) << error.what();
  }
}

TEST(TokenizerJson, AFolderWithItLoadsAndSoDoesTheFile) {
  const std::string folder = testing::TempDir() + "/tokenizer_json";
  std::filesystem::remove_all(folder);
  write_json(folder + "/tokenizer.json", byte_level(kQwen2));
  write_json(folder + "/tokenizer_config.json", {{"eos_token", "<|end|>"}});
  const Tokenizer from_folder = Tokenizer::load(folder), from_file = Tokenizer::load(folder + "/tokenizer.json");
  for (const Tokenizer* tokenizer : {&from_folder, &from_file}) {
    EXPECT_EQ(tokenizer->encode("abab"), (std::vector<std::int32_t>{258}));
    EXPECT_EQ(tokenizer->vocabulary().eos_id, 260);
  }
  std::filesystem::remove_all(folder);
}

TEST(TokenizerJson, TheGgufFormHoldsTheSameVocabulary) {
  const Vocabulary vocabulary = read_tokenizer_json(byte_level(kLlama3).dump(), R"({"eos_token": "<|end|>"})", "t.json");
  const std::string path = testing::TempDir() + "/vocabulary_form.model";
  write_file_atomic(path, gguf_vocabulary_bytes(vocabulary));
  const Vocabulary back = Tokenizer::load(path).vocabulary();
  EXPECT_EQ(back.model, vocabulary.model);
  EXPECT_EQ(back.pre, vocabulary.pre);
  EXPECT_EQ(back.pieces, vocabulary.pieces);
  EXPECT_EQ(back.types, vocabulary.types);
  EXPECT_EQ(back.merges, vocabulary.merges);
  EXPECT_EQ(back.bos_id, vocabulary.bos_id);
  EXPECT_EQ(back.eos_id, vocabulary.eos_id);
  EXPECT_EQ(back.add_bos, vocabulary.add_bos);
  std::filesystem::remove(path);
}

/// LLaMA-2's vocabulary in the form of the tokenizers library: merges in the order of scores. "_", "a", "b", "ab", "_a", "_ab" at 259 ...
Json byte_fallback() {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 3 + byte;
  for (const char* piece : {"\xe2\x96\x81", "a", "b", "ab", "\xe2\x96\x81" "a", "\xe2\x96\x81" "ab"}) {
    const auto id = vocab.size();
    vocab[piece] = id;
  }
  return {{"added_tokens",
           {{{"id", 0}, {"content", "<unk>"}, {"special", true}},
            {{"id", 1}, {"content", "<s>"}, {"special", true}},
            {{"id", 2}, {"content", "</s>"}, {"special", true}}}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}}}}},
          {"pre_tokenizer", nullptr},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", {"a b", "\xe2\x96\x81 a", "\xe2\x96\x81 ab"}}}}};
}

TEST(TokenizerJson, ByteFallbackBecomesSentencepiece) {
  const Json json = byte_fallback();
  const Tokenizer tokenizer(read_tokenizer_json(json.dump(), R"({"bos_token": "<s>", "eos_token": "</s>"})", "t.json"));
  EXPECT_EQ(tokenizer.vocabulary().unk_id, 0);
  // "a b" comes before "_ a": the prefix joins the pair, not its first letter.
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<std::int32_t>{264}));
  EXPECT_EQ(tokenizer.encode("a\n"), (std::vector<std::int32_t>{263, 3 + 10}));
  // A text begins again after a special token.
  EXPECT_EQ(tokenizer.encode("a</s>ab", true), (std::vector<std::int32_t>{263, 2, 264}));
  Json other = json;
  other["normalizer"] = nullptr;
  EXPECT_NE(error_of(other).find("the normalizer null with the pre_tokenizer null is not supported"), std::string::npos);
}

/// What tokenizers 0.23.3 gives for the same file.
TEST(TokenizerJson, MetaspacePutsThePrefixWhereItsSchemeSays) {
  constexpr std::int32_t kSpace = 259, kB = 261, kAb = 262, kSpaceA = 263, kSpaceAb = 264, kEnd = 2;
  struct Case {
    std::string text;
    std::vector<std::int32_t> first, always, never;
  };
  const std::vector<Case> cases = {{"ab", {kSpaceAb}, {kSpaceAb}, {kAb}},
                                   {" ab", {kSpaceAb}, {kSpaceAb}, {kSpaceAb}},
                                   {"  ab", {kSpace, kSpaceAb}, {kSpace, kSpaceAb}, {kSpace, kSpaceAb}},
                                   {"\xe2\x96\x81" "ab", {kSpaceAb}, {kSpaceAb}, {kSpaceAb}},
                                   {"</s>ab", {kEnd, kAb}, {kEnd, kSpaceAb}, {kEnd, kAb}},
                                   {"</s> ab", {kEnd, kSpaceAb}, {kEnd, kSpaceAb}, {kEnd, kSpaceAb}},
                                   {"a</s>b", {kSpaceA, kEnd, kB}, {kSpaceA, kEnd, kSpace, kB}, {260, kEnd, kB}},
                                   {"", {}, {}, {}},
                                   {" ", {kSpace}, {kSpace}, {kSpace}}};
  const auto read = [](const Json& step) {
    Json json = byte_fallback();
    json["normalizer"] = nullptr;
    json["pre_tokenizer"] = step;
    return read_tokenizer_json(json.dump(), "", "t.json");
  };
  const Json metaspace = {{"type", "Metaspace"}, {"replacement", "\xe2\x96\x81"}, {"split", false}};
  for (const std::string scheme : {"first", "always", "never"}) {
    Json step = metaspace;
    step["prepend_scheme"] = scheme;
    const Vocabulary vocabulary = read(step);
    const std::string path = testing::TempDir() + "/metaspace.model";  // the form that checkpoints keep
    write_file_atomic(path, gguf_vocabulary_bytes(vocabulary));
    const Tokenizer tokenizer(vocabulary), kept = Tokenizer::load(path);
    for (const Case& test : cases) {
      const auto& expected = scheme == "first" ? test.first : scheme == "always" ? test.always : test.never;
      EXPECT_EQ(tokenizer.encode(test.text, true), expected) << scheme << " '" << test.text << "'";
      EXPECT_EQ(kept.encode(test.text, true), expected) << scheme << " '" << test.text << "'";
    }
    std::filesystem::remove(path);
  }
  Json old = metaspace;
  old["add_prefix_space"] = false;
  EXPECT_FALSE(read(old).add_space_prefix);
  for (const Json& change : {Json{{"split", true}}, Json{{"replacement", "_"}}, Json{{"prepend_scheme", "last"}}}) {
    Json json = byte_fallback();
    json["normalizer"] = nullptr;
    json["pre_tokenizer"] = metaspace;
    json["pre_tokenizer"].update(change);
    EXPECT_NE(error_of(json).find("or Metaspace with \"split\": false); use the tokenizer.model"), std::string::npos);
  }
}

TEST(TokenizerJson, NormalFormCAndWholeWordsAreReadFromTheFile) {
  Json json = byte_level(kQwen2);
  EXPECT_FALSE(read_tokenizer_json(json.dump(), "", "t.json").nfc);
  json["normalizer"] = {{"type", "NFC"}};
  json["model"]["ignore_merges"] = true;
  const Vocabulary vocabulary = read_tokenizer_json(json.dump(), "", "t.json");
  EXPECT_TRUE(vocabulary.nfc);
  EXPECT_TRUE(vocabulary.whole_words);
  const std::string path = testing::TempDir() + "/normal_form.model";
  write_file_atomic(path, gguf_vocabulary_bytes(vocabulary));
  EXPECT_TRUE(Tokenizer::load(path).vocabulary().nfc);
  EXPECT_TRUE(Tokenizer::load(path).vocabulary().whole_words);
  std::filesystem::remove(path);
  json["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_NE(error_of(json).find("the normalizer {\"type\":\"Lowercase\"} is not supported; only NFC is, or none"), std::string::npos);
  json = byte_level(kQwen2);
  json["added_tokens"][1]["rstrip"] = true;
  EXPECT_NE(error_of(json).find("added token \"<box>\" has \"rstrip\": true"), std::string::npos);
}

/// Tokens that a release adds beside tokenizer.json.
TEST(TokenizerJson, AddedTokensOfTheSettingsJoinTheVocabulary) {
  const std::string text = byte_level(kQwen2).dump();
  const Vocabulary vocabulary = read_tokenizer_json(
      text, R"({"added_tokens_decoder": {"260": {"content": "<|end|>"}, "263": {"content": "<image>", "special": true}}})", "t.json");
  EXPECT_EQ(vocabulary.pieces.size(), 264U);
  EXPECT_EQ(vocabulary.pieces[263], "<image>");
  EXPECT_EQ(vocabulary.types[263], TokenType::kControl);
  const auto error = [&](const char* settings) -> std::string {
    try {
      read_tokenizer_json(text, settings, "t.json");
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(error(R"({"added_tokens_decoder": {"256": {"content": "<image>"}}})"),
            "t.json (tokenizer_config.json): added token \"<image>\" has the id 256, which \"ab\" has, too");
  EXPECT_NE(error(R"({"added_tokens_decoder": {"x": {"content": "<image>"}}})").find("\"x\" is not an id"), std::string::npos);
  EXPECT_NE(error(R"({"added_tokens_decoder": {"999999999999": {"content": "<image>"}}})").find("999999999999"), std::string::npos);
}

/// nlohmann's own builder looks each name up among those before it, which takes a minute for a real vocabulary.
TEST(TokenizerJson, AVocabularyOfAHundredThousandPiecesIsReadInSeconds) {
  Json json = byte_level(kQwen2);
  std::string text = json.dump();
  std::string more;
  for (int i = 0; i < 100000; ++i) more += fmt::format("\"zz{}\":{},", i, 300 + i);
  const std::size_t at = text.find("\"vocab\":{") + std::string_view("\"vocab\":{").size();
  text.insert(at, more);
  const std::clock_t begin = std::clock();  // processor time: the machine may be busy
  EXPECT_EQ(read_tokenizer_json(text, "", "t.json").pieces.size(), 100300U);
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 10.0);
}

TEST(TokenizerJson, WhatCannotBeSaidHereIsNamed) {
  Json json = byte_level(kQwen2);
  json["model"]["type"] = "Unigram";
  EXPECT_NE(error_of(json).find("Unigram"), std::string::npos);
  EXPECT_NE(error_of(byte_level("\\w+")).find("pre-tokenizer"), std::string::npos);
  json = byte_level(kQwen2);
  json["model"]["vocab"]["x"] = 1000000000000;
  EXPECT_NE(error_of(json).find("1000000000000"), std::string::npos);
  json = byte_level(kQwen2);
  json["model"]["vocab"]["x"] = 256;
  EXPECT_NE(error_of(json).find("has the id 256"), std::string::npos);
  json = byte_level(kQwen2);
  json["model"]["merges"][0] = 7;
  EXPECT_NE(error_of(json).find("merges[0]"), std::string::npos);
  json["model"].erase("merges");
  EXPECT_NE(error_of(json).find("merges"), std::string::npos);
  EXPECT_NE(error_of(Json::array()).find("model"), std::string::npos);
  json = byte_level(kQwen2);
  json["added_tokens"][0].erase("id");
  EXPECT_NE(error_of(json).find("added_tokens"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
