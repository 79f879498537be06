#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/config.h"

namespace pocketvlm {

/// How a vocabulary is learned from text: sentencepiece BPE with byte fallback, identity
/// normalisation, spaces kept and each digit alone.
struct TokenizerTrainingConfig {
  int64_t vocab_size = 2048;
  std::vector<std::string> special_pieces = {"<image>",
                                             "</image>",
                                             "<slice>",
                                             "</slice>",
                                             "<image_id>",
                                             "</image_id>",
                                             "<|im_start|>",
                                             "<|im_end|>"};
  double character_coverage = 0.9995;
  int64_t max_sentence_bytes = 16384;

  void visit_fields(auto&& field) {
    field("vocab_size",
          vocab_size,
          "pieces in all: 3 control and unknown, the special ones, 256 bytes, the rest learned",
          in_range(260, 1000000));
    field("special_pieces",
          special_pieces,
          "pieces that text never splits, in the order of their ids, from 3 on");
    field("character_coverage",
          character_coverage,
          "share of the text whose characters get a piece; rarer ones are spelled in bytes",
          in_range(0.9, 1.0));
    field("max_sentence_bytes",
          max_sentence_bytes,
          "longer sentences are left out of training",
          in_range(16, 1 << 24));
  }
  void validate(const std::string& path) const;
};

/// Learns a vocabulary and writes it to `model_path` atomically, as a sentencepiece model that
/// Tokenizer::load and the sentencepiece library read. Ids: <unk> 0, <s> 1, </s> 2, the special
/// pieces, the bytes, then what was learned. Same sentences in the same order, same bytes.
///
///   next_sentence  writes the next sentence into its argument, or returns false at the end
///
/// Throws Error when there is too little text for the vocabulary size.
void train_tokenizer(const TokenizerTrainingConfig& config,
                     const std::function<bool(std::string&)>& next_sentence,
                     const std::string& model_path);

}  // namespace pocketvlm
