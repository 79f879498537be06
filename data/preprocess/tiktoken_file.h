#pragma once

#include <string>
#include <string_view>

#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// True when a file begins as tiktoken files do: base64, a space, a rank.
bool is_tiktoken_file(std::string_view text);

/// Reads a tiktoken file: one byte-level piece a line, in base64, with its rank, which is its id; two neighbours merge when what they
/// make has a rank, the lowest first. Such a file holds neither a split rule nor special tokens. The rule follows from the
/// number of ranks (Llama 3: 128000, Qwen2: 151643) or from tokenizer_class in `settings`, the text of tokenizer_config.json beside
/// it (or empty); the tokens from added_tokens_decoder there, else they are the published ones. Throws Error naming file and line.
Vocabulary read_tiktoken_file(std::string_view text, std::string_view settings, const std::string& where);

}  // namespace pocketvlm
