#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/preprocess/piece_matcher.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// U+2581, which stands for a space in sentencepiece pieces.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

/// Rules of the tokenizers library for the dummy prefix, as Vocabulary::pre: never before a space, and `first`: at the start of a
/// text alone, not after a special piece.
inline constexpr std::string_view kMetaspace = "metaspace", kMetaspaceFirst = "metaspace-first";

/// True when a user-defined piece could be taken for a marker of a prompt: `<...>` or `[...]`.
bool looks_like_markup(std::string_view piece);

/// The byte that a piece like <0x0A> stands for; -1 for other pieces.
int byte_of_piece(std::string_view piece);

/// BPE as the sentencepiece library does it (Kudo and Richardson 2018, section 3), with the
/// identity normaliser: characters, and user-defined pieces as wholes, are merged pair by pair, the
/// pair whose joined piece has the highest score first, leftmost among equals; what is then no
/// piece is spelled in byte pieces, or becomes the unknown id.
///
/// The vocabulary is borrowed and must already be checked.
class SentencePieceBpe {
 public:
  explicit SentencePieceBpe(const Vocabulary& vocabulary);

  /// Appends the ids of text that holds no control piece. `block_markup`: SpecialPieces::kNone.
  void encode(std::string_view text,
              bool space_prefix,
              bool block_markup,
              std::vector<std::int32_t>& ids) const;

 private:
  std::string normalize(std::string_view text,
                        bool space_prefix,
                        const PieceMatcher& matcher) const;
  bool is_blocked(std::int32_t id, bool block_markup) const {
    return block_markup && is_markup_[static_cast<std::size_t>(id)];
  }

  const Vocabulary& vocabulary_;
  std::unordered_map<std::string_view, std::int32_t> mergeable_;  // normal, user-defined, unused
  std::vector<bool> is_markup_;
  PieceMatcher user_defined_;  // all of them
  PieceMatcher ordinary_;      // those that do not look like markup
  std::array<std::int32_t, 256> byte_ids_;
  bool has_byte_pieces_ = false;
};

}  // namespace pocketvlm
