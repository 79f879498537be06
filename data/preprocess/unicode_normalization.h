#pragma once

#include <string>
#include <string_view>

namespace pocketvlm {

/// Normalisation form C (Unicode Standard Annex 15) of valid UTF-8: letters and the accents written after them become one
/// character where Unicode has one. Qwen2's tokenizer reads texts in this form, by the rules of the Unicode version
/// that the tokenizers library has (9): marks of later versions stay where they stand.
std::string normalize_nfc(std::string_view text);

}  // namespace pocketvlm
