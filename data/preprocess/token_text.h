#pragma once

#include <cstdint>
#include <string>

#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// The bytes that ids add to a text one after the other; what Tokenizer::decode is made of. Where a text begins, the space
/// that the vocabulary puts before words is left out.
class TokenText {
 public:
  /// The tokenizer must outlive this.
  explicit TokenText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::string of(std::int32_t id) const;  // if it came next; not always whole UTF-8 characters
  void add(std::int32_t id);              // it came

 private:
  TokenType type_of(std::int32_t id) const;

  const Tokenizer& tokenizer_;
  bool at_start_ = true;  // nothing but control pieces so far
};

}  // namespace pocketvlm
