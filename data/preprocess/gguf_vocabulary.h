#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// Keys of ours beside llama.cpp's: Vocabulary::nfc and Vocabulary::whole_words. Without them the published vocabulary of the
/// split rule decides.
inline constexpr const char* kGgufNfcKey = "pocketvlm.tokenizer.nfc";
inline constexpr const char* kGgufWholeWordsKey = "pocketvlm.tokenizer.whole_words";
/// Vocabulary::add_space_prefix where tokenizer.ggml.add_space_prefix says something else: llama.cpp puts the prefix after every
/// special piece, too, so files whose chats begin with one switch it off there.
inline constexpr const char* kGgufSpacePrefixKey = "pocketvlm.tokenizer.add_space_prefix";

/// Reads the vocabulary of a GGUF file (versions 2 and 3, little-endian) from its metadata; tensors
/// are not looked at. Throws Error naming file and key when the metadata are damaged, lack a
/// vocabulary, or hold one of a kind that is not supported.
Vocabulary read_gguf_vocabulary(std::span<const std::byte> bytes, const std::string& where);

}  // namespace pocketvlm
