#include "exporter/gguf_language.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kHidden = 32, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kFfn = 64, kVocab = 6;

/// A LLaMA of one layer whose every matrix holds its own row and column numbers: 100 * row + column, rows counted in our order.
class GgufLanguage : public testing::Test {
 protected:
  GgufLanguage() : path_(testing::TempDir() + "/gguf_language_" + testing::UnitTest::GetInstance()->current_test_info()->name() + ".gguf") {
    writer_.set_string("general.architecture", "llama");
    writer_.set_uint32("llama.context_length", 64);
    writer_.set_uint32("llama.embedding_length", kHidden);
    writer_.set_uint32("llama.block_count", 1);
    writer_.set_uint32("llama.feed_forward_length", kFfn);
    writer_.set_uint32("llama.attention.head_count", kHeads);
    writer_.set_uint32("llama.attention.head_count_kv", kKvHeads);
    writer_.set_float32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    writer_.set_float32("llama.rope.freq_base", 100000.0F);
    writer_.set_string("tokenizer.ggml.model", "llama");
    writer_.set_strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "b", "ab"});
    writer_.set_float32s("tokenizer.ggml.scores", {0, 0, 0, -1, -2, -3});
    writer_.set_int32s("tokenizer.ggml.token_type", {2, 3, 3, 1, 1, 1});
  }
  ~GgufLanguage() override { std::filesystem::remove(path_); }

  void matrix(const std::string& name, std::int64_t rows, std::int64_t columns, GgmlType type = GgmlType::kF32,
              const std::function<std::int64_t(std::int64_t)>& our_row = [](std::int64_t row) { return row; }) {
    writer_.add_tensor(name, type, {columns, rows}, [=](const GgufWriter::Sink& sink) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(row_bytes(type, columns)));
      for (std::int64_t r = 0; r < rows; ++r) {
        std::vector<float> row;
        for (std::int64_t c = 0; c < columns; ++c) row.push_back(static_cast<float>(100 * our_row(r) + c));
        quantize_row(type, row.data(), columns, bytes.data());
        sink(bytes);
      }
    });
  }
  void vector(const std::string& name, std::int64_t size) {
    writer_.add_tensor(name, GgmlType::kF32, {size}, [size](const GgufWriter::Sink& sink) {
      std::vector<float> row;
      for (std::int64_t c = 0; c < size; ++c) row.push_back(static_cast<float>(c));
      sink(std::as_bytes(std::span(row)));
    });
  }

  void write_whole(bool tied = true) {
    // Place 2i + s of a head in the file is row i of half s.
    const auto interleaved = [](std::int64_t row) {
      const std::int64_t head = row / kHeadDim, place = row % kHeadDim;
      return head * kHeadDim + place % 2 * (kHeadDim / 2) + place / 2;
    };
    matrix("token_embd.weight", kVocab, kHidden, GgmlType::kF16);
    vector("output_norm.weight", kHidden);
    if (!tied) matrix("output.weight", kVocab, kHidden);
    vector("blk.0.attn_norm.weight", kHidden);
    matrix("blk.0.attn_q.weight", kHeads * kHeadDim, kHidden, GgmlType::kF32, interleaved);
    matrix("blk.0.attn_k.weight", kKvHeads * kHeadDim, kHidden, GgmlType::kF32, interleaved);
    matrix("blk.0.attn_v.weight", kKvHeads * kHeadDim, kHidden);
    matrix("blk.0.attn_output.weight", kHidden, kHeads * kHeadDim, GgmlType::kQ8_0);
    vector("blk.0.ffn_norm.weight", kHidden);
    matrix("blk.0.ffn_gate.weight", kFfn, kHidden);
    matrix("blk.0.ffn_up.weight", kFfn, kHidden);
    matrix("blk.0.ffn_down.weight", kHidden, kFfn);
    writer_.write(path_);
  }

  std::string read_error() {
    try {
      const GgufFile file(path_);
      gguf_language_tensors(file, read_gguf_language(file));
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return {};
  }

  GgufWriter writer_;
  std::string path_;
};

TEST_F(GgufLanguage, MetadataBecomeAConfig) {
  write_whole();
  const LanguageConfig config = read_gguf_language(GgufFile(path_));
  EXPECT_EQ(config.vocab, kVocab);
  EXPECT_EQ(config.head_dim, kHeadDim);
  EXPECT_EQ(config.num_kv_heads, kKvHeads);
  EXPECT_EQ(config.rope_theta, 100000.0);
  EXPECT_EQ(config.max_positions, 64);
  EXPECT_TRUE(config.tied_embeddings);
}

TEST_F(GgufLanguage, EveryRowComesBackToItsPlace) {
  write_whole(/*tied=*/false);
  const GgufFile file(path_);
  const LanguageConfig config = read_gguf_language(file);
  EXPECT_FALSE(config.tied_embeddings);
  std::size_t matrices = 0;
  for (const TensorToWrite& tensor : gguf_language_tensors(file, config)) {
    const auto bytes = tensor.bytes();
    std::vector<float> values(bytes.size() / 4);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    if (tensor.shape.size() != 2) continue;
    ++matrices;
    // The Q8_0 matrix is off by half a step of its largest value over 127; its rows are told apart all the same.
    const double tolerance = tensor.name.ends_with("o_proj.weight") ? 13.0 : 0.0;
    const std::int64_t columns = tensor.shape[1];
    for (std::int64_t i = 0; i < tensor.shape[0] * columns; ++i) {
      ASSERT_NEAR(values[static_cast<std::size_t>(i)], static_cast<double>(100 * (i / columns) + i % columns), tolerance) << tensor.name << " " << i;
    }
  }
  EXPECT_EQ(matrices, 9U);
}

TEST_F(GgufLanguage, VariantsThatTheDecoderLacksAreNamed) {
  vector("rope_freqs.weight", kHeadDim / 2);
  write_whole();
  EXPECT_NE(read_error().find("rope_freqs.weight"), std::string::npos);
  writer_.set_string("llama.rope.scaling.type", "yarn");
  writer_.write(path_);
  EXPECT_NE(read_error().find("yarn"), std::string::npos);
  writer_.set_string("general.architecture", "gpt2");
  writer_.write(path_);
  EXPECT_NE(read_error().find("\"gpt2\" is not supported"), std::string::npos);
}

TEST_F(GgufLanguage, MissingTensorsAreNamed) {
  matrix("token_embd.weight", kVocab, kHidden);
  writer_.write(path_);
  EXPECT_NE(read_error().find("blk.0.attn_norm.weight"), std::string::npos);
}

TEST_F(GgufLanguage, TheVocabularyAloneReadsAsBefore) {
  write_whole();
  const std::string alone = path_ + ".vocabulary";
  write_gguf_vocabulary(GgufFile(path_), alone);
  EXPECT_TRUE(GgufFile(alone).tensors().empty());
  const Vocabulary before = Tokenizer::load(path_).vocabulary();
  const Tokenizer after = Tokenizer::load(alone);
  EXPECT_EQ(after.vocabulary().pieces, before.pieces);
  EXPECT_EQ(after.vocabulary().scores, before.scores);
  EXPECT_EQ(after.vocabulary().types, before.types);
  EXPECT_EQ(after.vocabulary().eos_id, 2);
  std::filesystem::remove(alone);
}

}  // namespace
}  // namespace pocketvlm
