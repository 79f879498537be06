#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// The JSON of a tokenizer_config.json: any number goes, because transformers writes 10^30 for a "model_max_length" that is not
/// limited. Throws Error that starts with `where`.
Json parse_tokenizer_config(std::string_view text, const std::string& where);

/// What the tokenizer_config.json beside a vocabulary says: which token begins, ends and pads a text, whether text begins with
/// BOS, and tokens that were added after training (added_tokens_decoder). `text` may be empty: nothing is said. Throws Error
/// when an added token has the id of another piece.
void apply_tokenizer_config(std::string_view text, const std::string& where, Vocabulary& vocabulary);

/// Puts a piece at an id of its own: an id beyond the end makes room, and the places between become unused pieces. `what` names it
/// in errors. Throws Error when the id is too large for any vocabulary, or another piece has it.
void place_piece(Vocabulary& vocabulary,
                 std::int64_t id,
                 const std::string& piece,
                 TokenType type,
                 const std::string& where,
                 const std::string& what);

}  // namespace pocketvlm
