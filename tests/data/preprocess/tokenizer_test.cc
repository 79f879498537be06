#include "data/preprocess/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/gguf_vocabulary.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

// The vocabularies are large, and some may not be redistributed: they lie beside the checkout.
const std::string kVocabularies = SOURCE_ROOT "/../shared/data/tokenizers";

struct GoldenCase {
  std::string text;
  std::vector<std::int32_t> ids;
};

std::vector<GoldenCase> golden_cases(const std::string& gguf) {
  const std::string input = read_file(gguf + ".inp");
  const std::string mark = "\n__ggml_vocab_test__\n";
  std::vector<GoldenCase> cases;
  std::istringstream output(read_file(gguf + ".out"));
  for (std::size_t at = 0; at <= input.size();) {
    const std::size_t end = std::min(input.find(mark, at), input.size());
    GoldenCase item{input.substr(at, end - at), {}};
    std::string line;
    std::getline(output, line);  // the last text is empty, and so is its line
    std::istringstream ids(line);
    for (std::int32_t id; ids >> id;) item.ids.push_back(id);
    cases.push_back(std::move(item));
    at = end + mark.size();
  }
  return cases;
}

std::size_t count_equal(const Tokenizer& tokenizer, const std::vector<GoldenCase>& cases) {
  std::size_t equal = 0;
  for (const GoldenCase& item : cases) equal += tokenizer.encode(item.text) == item.ids ? 1 : 0;
  return equal;
}

class PublishedVocabulary : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!fs::exists(path())) GTEST_SKIP() << path() << " is not on this machine";
  }
  std::string path() const { return kVocabularies + "/" + GetParam(); }
};

TEST_P(PublishedVocabulary, GivesThePublishedIdsOfAllGoldenTexts) {
  const std::vector<GoldenCase> cases = golden_cases(path());
  ASSERT_EQ(cases.size(), 47u);
  const Tokenizer tokenizer = Tokenizer::load(path());
  for (const GoldenCase& item : cases) {
    EXPECT_EQ(tokenizer.encode(item.text), item.ids) << "text: [" << item.text << "]";
    EXPECT_EQ(tokenizer.decode(item.ids), item.text);
  }
}

TEST_P(PublishedVocabulary, GivesOtherIdsWhenOneScoreOrMergeChanges) {
  const MappedFile file(path());
  Vocabulary vocabulary = read_gguf_vocabulary({file.data(), file.size()}, path());
  const Tokenizer original(vocabulary);
  if (vocabulary.model == "llama") {
    vocabulary.scores[static_cast<std::size_t>(original.require("ui"))] =
        0;  // highest: cuts "tuijk" differently
  } else {
    // Any merge that makes a piece of a text which is no piece as a whole.
    const std::int32_t made = original.encode("w048 7tuijk dsdfhu").back();
    const std::string& piece = vocabulary.pieces[static_cast<std::size_t>(made)];
    for (std::string& merge : vocabulary.merges) {
      std::string joined = merge;
      joined.erase(joined.find(' '), 1);
      if (joined == piece) merge = vocabulary.merges[0];
    }
  }
  const std::vector<GoldenCase> cases = golden_cases(path());
  EXPECT_EQ(count_equal(original, cases), cases.size());
  EXPECT_LT(count_equal(Tokenizer(vocabulary), cases), cases.size());
}

INSTANTIATE_TEST_SUITE_P(Tokenizer,
                         PublishedVocabulary,
                         testing::Values("ggml-vocab-llama-spm.gguf",
                                         "ggml-vocab-llama-bpe.gguf",
                                         "ggml-vocab-qwen2.gguf"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST(Tokenizer, ReadsTheSentencepieceFileToTheSameVocabularyAsTheGguf) {
  const std::string model = kVocabularies + "/llama2-32000.rebuilt.model";
  if (!fs::exists(model)) GTEST_SKIP() << model << " is not on this machine";
  const Tokenizer from_model = Tokenizer::load(model);
  const Tokenizer from_gguf = Tokenizer::load(kVocabularies + "/ggml-vocab-llama-spm.gguf");
  EXPECT_EQ(from_model.vocabulary().pieces, from_gguf.vocabulary().pieces);
  EXPECT_EQ(from_model.vocabulary().scores, from_gguf.vocabulary().scores);
  EXPECT_EQ(from_model.vocabulary().types, from_gguf.vocabulary().types);
  EXPECT_EQ(from_model.vocabulary().bos_id, 1);
  EXPECT_EQ(from_model.vocabulary().eos_id, 2);
  EXPECT_EQ(from_model.vocabulary().unk_id, 0);
  const auto cases = golden_cases(kVocabularies + "/ggml-vocab-llama-spm.gguf");
  EXPECT_EQ(count_equal(from_model, cases), cases.size());
}

}  // namespace
}  // namespace pocketvlm
