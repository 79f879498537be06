#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/preprocess/split_words.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// How pieces spell each byte, as one printable character of UTF-8 (GPT-2).
const std::array<std::string, 256>& byte_spelling();

/// BPE over bytes (GPT-2): text is cut into words, the bytes of each word are merged pair by pair,
/// the pair that comes first in the list of merges first. The vocabulary is borrowed.
class ByteLevelBpe {
 public:
  /// Throws Error when a byte of ASCII text has no piece, or a merge names pieces that do not exist. Other bytes without a piece are
  /// left out of what is encoded, as the tokenizers library does.
  ByteLevelBpe(const Vocabulary& vocabulary, const std::string& where);

  /// Appends the ids of text that holds no special piece.
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const;

  /// The bytes that a piece spells.
  std::string bytes_of(std::string_view piece) const;

 private:
  struct Merge {
    std::int32_t rank;
    std::int32_t id;
  };
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;

  SplitRule rule_;
  bool nfc_;
  bool whole_words_;
  std::unordered_map<std::string_view, std::int32_t> piece_ids_;  // normal pieces
  std::unordered_map<std::uint64_t, Merge> merges_;               // by (left id, right id)
  std::unordered_map<std::uint32_t, unsigned char> byte_of_;      // by spelled code point
  std::array<std::int32_t, 256> byte_ids_;
};

}  // namespace pocketvlm
