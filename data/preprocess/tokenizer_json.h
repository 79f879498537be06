#pragma once

#include <string>
#include <string_view>

#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// Reads the tokenizer.json of the tokenizers library: byte-level BPE with the split rules of Llama 3, Qwen2 (NFC) and SmolLM, and
/// the byte-fallback BPE that LLaMA-2's sentencepiece vocabulary becomes there, in both forms that transformers writes. `settings`:
/// the text of tokenizer_config.json beside it (which token begins and ends a text), or empty. Places that no token has become unused pieces. `where` starts every error;
/// what the vocabulary cannot say here (other models, normalisers, split rules) is an Error naming it.
Vocabulary read_tokenizer_json(std::string_view text, std::string_view settings, const std::string& where);

/// The bytes of a GGUF file that holds this vocabulary and nothing else: a form of any vocabulary that Tokenizer::load reads.
std::string gguf_vocabulary_bytes(const Vocabulary& vocabulary);

}  // namespace pocketvlm
