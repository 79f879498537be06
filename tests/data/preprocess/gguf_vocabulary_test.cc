#include "data/preprocess/gguf_vocabulary.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"

namespace pocketvlm {
namespace {

template <typename T>
std::string bytes_of(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
std::string text(const std::string& value) { return bytes_of<std::uint64_t>(value.size()) + value; }

/// Writes GGUF metadata key by key.
struct Gguf {
  std::string values;
  std::uint64_t count = 0;
  std::uint32_t version = 3;

  Gguf& add(const std::string& key, std::uint32_t kind, const std::string& value) {
    values += text(key) + bytes_of(kind) + value;
    ++count;
    return *this;
  }
  Gguf& add_text(const std::string& key, const std::string& value) {
    return add(key, 8, text(value));
  }
  Gguf& add_texts(const std::string& key, const std::vector<std::string>& list) {
    std::string value = bytes_of<std::uint32_t>(8) + bytes_of<std::uint64_t>(list.size());
    for (const std::string& item : list) value += text(item);
    return add(key, 9, value);
  }
  template <typename T>
  Gguf& add_numbers(const std::string& key, std::uint32_t kind, const std::vector<T>& list) {
    std::string value = bytes_of(kind) + bytes_of<std::uint64_t>(list.size());
    for (const T item : list) value += bytes_of(item);
    return add(key, 9, value);
  }
  std::string file() const {
    return "GGUF" + bytes_of(version) + bytes_of<std::uint64_t>(0) + bytes_of(count) + values;
  }
};

Gguf small_vocabulary() {
  Gguf file;
  file.add_text("general.name", "test");
  file.add_numbers<std::uint16_t>("skipped.numbers", 2, {1, 2, 3});
  file.add_texts("skipped.texts", {"a", "b"});
  file.add("skipped.flag", 7, std::string(1, '\1'));
  file.add_text("tokenizer.ggml.model", "llama");
  file.add_texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "\xE2\x96\x81", "  "});
  file.add_numbers<float>("tokenizer.ggml.scores", 6, {0, 0, 0, -1, -2, 0});
  file.add_numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 1, 1, 4});
  return file;
}

Vocabulary read(const std::string& file) {
  return read_gguf_vocabulary(std::as_bytes(std::span(file.data(), file.size())), "f.gguf");
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(GgufVocabulary, ReadsASentencepieceVocabularyWithTheDefaultsOfTheFormat) {
  const Vocabulary vocabulary = read(small_vocabulary().file());
  EXPECT_EQ(vocabulary.model, "llama");
  EXPECT_EQ(vocabulary.pre, "default");
  // Spaces of user-defined pieces are spelled as sentencepiece spells them.
  EXPECT_EQ(vocabulary.pieces.back(), "\xE2\x96\x81\xE2\x96\x81");
  EXPECT_EQ(vocabulary.scores[4], -2.0f);
  EXPECT_EQ(vocabulary.bos_id, 1);
  EXPECT_EQ(vocabulary.eos_id, 2);
  EXPECT_EQ(vocabulary.unk_id, 0);
  EXPECT_TRUE(vocabulary.add_bos);
  EXPECT_TRUE(vocabulary.add_space_prefix);
  const Tokenizer tokenizer(vocabulary);
  EXPECT_EQ(tokenizer.encode("a  a"), (std::vector<std::int32_t>{4, 3, 5, 3}));
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<std::int32_t>{4, 3, 0}));
}

TEST(GgufVocabulary, ReadsWhatTheFileSaysInsteadOfDefaults) {
  Gguf file = small_vocabulary();
  file.add("tokenizer.ggml.bos_token_id", 4, bytes_of<std::uint32_t>(2));
  file.add("tokenizer.ggml.eos_token_id", 4, bytes_of<std::uint32_t>(1));
  file.add("tokenizer.ggml.padding_token_id", 4, bytes_of<std::uint32_t>(0));
  file.add("tokenizer.ggml.add_bos_token", 7, std::string(1, '\0'));
  file.add("tokenizer.ggml.add_space_prefix", 7, std::string(1, '\0'));
  file.add("tokenizer.ggml.remove_extra_whitespaces", 7, std::string(1, '\1'));
  const Vocabulary vocabulary = read(file.file());
  EXPECT_EQ(vocabulary.bos_id, 2);
  EXPECT_EQ(vocabulary.eos_id, 1);
  EXPECT_EQ(vocabulary.pad_id, 0);
  EXPECT_FALSE(vocabulary.add_bos);
  EXPECT_FALSE(vocabulary.add_space_prefix);
  EXPECT_TRUE(vocabulary.remove_extra_whitespaces);
}

TEST(GgufVocabulary, NamesFileAndPlaceOfWhatIsWrong) {
  const auto error = [](const std::string& file) { return error_of([&] { read(file); }); };
  EXPECT_EQ(error("not a gguf file"), "f.gguf: does not start with GGUF; is this a GGUF file?");
  EXPECT_NE(error("").find("f.gguf: cut off at byte 0"), std::string::npos);
  Gguf old = small_vocabulary();
  old.version = 1;
  EXPECT_NE(error(old.file()).find("GGUF version 1"), std::string::npos);
  EXPECT_NE(error(Gguf().add_text("general.name", "x").file()).find("holds no vocabulary"),
            std::string::npos);
  EXPECT_NE(error(Gguf().add("a.key", 13, "").file()).find("a.key has value type 13"),
            std::string::npos);
  EXPECT_NE(error(Gguf().add("tokenizer.ggml.model", 4, bytes_of<std::uint32_t>(1)).file())
                .find("tokenizer.ggml.model is of type uint32, not string"),
            std::string::npos);
  const std::string huge = bytes_of<std::uint32_t>(8) + bytes_of<std::uint64_t>(1ull << 60);
  EXPECT_NE(error(Gguf().add("tokenizer.ggml.tokens", 9, huge).file())
                .find("tokenizer.ggml.tokens claims 1152921504606846976 elements"),
            std::string::npos);
  EXPECT_NE(error(Gguf().add("skipped", 9, huge).file()).find("skipped claims"), std::string::npos);
  Gguf typed = small_vocabulary();
  typed.add_numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 9});
  EXPECT_NE(error(typed.file()).find("tokenizer.ggml.token_type[1] = 9"), std::string::npos);
  Gguf normalised = small_vocabulary();
  normalised.add_numbers<std::uint8_t>("tokenizer.ggml.precompiled_charsmap", 0, {1});
  EXPECT_NE(error(normalised.file()).find("not supported"), std::string::npos);
}

TEST(GgufVocabulary, EveryCutAndDamageGivesAnErrorOrAVocabularyButNeverACrash) {
  const std::string file = small_vocabulary().file();
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_NE(error_of([&] { read(file.substr(0, size)); }), "no error") << size;
  }
  Random random({1});
  for (int i = 0; i < 5000; ++i) {
    std::string damaged = file;
    for (int n = 0; n < 2; ++n) {
      damaged[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(file.size())))] =
          static_cast<char>(random.below(256));
    }
    error_of([&] { Tokenizer(read(damaged)).encode("a ab\xFF"); });
  }
}

TEST(TokenizerLoad, SaysWhatAPathIsNot) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "tokenizer_load";
  fs::remove_all(folder);
  make_folders(folder.string());
  const auto error = [](const fs::path& path) {
    return error_of([&] { Tokenizer::load(path.string()); });
  };
  EXPECT_EQ(error(folder),
            folder.string() + ": no tokenizer.model, tokenizer.json or .tiktoken file is in this folder");
  std::ofstream(folder / "tokenizer.json") << "{}";
  EXPECT_NE(error(folder).find("tokenizer.json: no \"model\" object"), std::string::npos);
  EXPECT_NE(error(folder / "missing.model").find("missing.model"), std::string::npos);
  std::ofstream(folder / "empty.model");
  EXPECT_NE(error(folder / "empty.model").find("is this a sentencepiece model?"),
            std::string::npos);
  std::ofstream(folder / "text.model") << "hello, this is no model";
  EXPECT_NE(error(folder / "text.model").find("text.model"), std::string::npos);
  std::ofstream(folder / "cut.gguf") << "GGUF";
  EXPECT_NE(error(folder / "cut.gguf").find("cut off"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
