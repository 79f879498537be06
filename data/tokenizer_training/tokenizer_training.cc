#include "data/tokenizer_training/tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <cstddef>
#include <span>
#include <unordered_map>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {
namespace {

/// The library's view of `next_sentence`. Errors thrown there must not pass through the library, so
/// they are kept and thrown again afterwards.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::function<bool(std::string&)>& next) : next_(next) { Next(); }

  bool done() const override { return done_; }
  void Next() override {
    try {
      // An empty line teaches nothing, and the library counts it.
      do done_ = !next_(value_);
      while (!done_ && value_.empty());
    } catch (...) {
      done_ = true;
      error_ = std::current_exception();
    }
    num_sentences_ += done_ ? 0 : 1;
  }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }
  std::int64_t num_sentences() const { return num_sentences_; }

 private:
  const std::function<bool(std::string&)>& next_;
  std::string value_;
  bool done_ = false;
  std::exception_ptr error_;
  std::int64_t num_sentences_ = 0;
};

/// The library reads lists as one line of CSV.
std::string comma_separated(const std::vector<std::string>& pieces) {
  std::string line;
  for (const std::string& piece : pieces) line += (line.empty() ? "" : ",") + piece;
  return line;
}

}  // namespace

void train_tokenizer(const TokenizerTrainingConfig& config,
                     const std::function<bool(std::string&)>& next_sentence,
                     const std::string& model_path) {
  config.validate("tokenizer");
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(config.vocab_size)},
      {"character_coverage", std::to_string(config.character_coverage)},
      {"max_sentence_length", std::to_string(config.max_sentence_bytes)},
      {"user_defined_symbols", comma_separated(config.special_pieces)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"input_sentence_size", "0"},  // all of them: the library's sampling is not seeded
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  Sentences sentences(next_sentence);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &sentences, &model);
  sentences.rethrow();
  PV_CHECK(
      sentences.num_sentences() > 0, "{}: there is no text to train a tokenizer on", model_path);
  if (!status.ok()) {
    const std::string reason = status.ToString();
    // The characters of the text alone can be more than the vocabulary holds.
    const bool too_small = reason.find("required_chars") != std::string::npos;
    fail("{}: training the tokenizer on {} sentences failed: {}; {}",
         model_path,
         sentences.num_sentences(),
         reason,
         too_small
             ? fmt::format(
                   "raise tokenizer.vocab_size ({}) or lower tokenizer.character_coverage ({})",
                   config.vocab_size,
                   config.character_coverage)
             : fmt::format("lower tokenizer.vocab_size ({}) or give more text", config.vocab_size));
  }

  const Vocabulary vocabulary =
      read_sentencepiece_model(std::as_bytes(std::span(model.data(), model.size())), model_path);
  PV_CHECK(static_cast<std::int64_t>(vocabulary.pieces.size()) == config.vocab_size,
           "{}: the text is only enough for {} pieces; set tokenizer.vocab_size to that, or give "
           "more text",
           model_path,
           vocabulary.pieces.size());
  write_file_atomic(model_path, model);
}

}  // namespace pocketvlm
