#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pocketvlm {

/// One character read from UTF-8. An invalid byte gives U+FFFD with size 1 and `valid` false.
struct Utf8Char {
  std::uint32_t code_point = 0;
  int size = 0;
  bool valid = true;
};

/// Reads the first character of non-empty text: shortest form only, no surrogates, at most
/// U+10FFFF.
Utf8Char read_utf8(std::string_view text);

void append_utf8(std::uint32_t code_point, std::string& out);

/// All characters of a text; U+FFFD for each invalid byte.
std::u32string letters_of(std::string_view text);

/// Replaces each byte that is not part of valid UTF-8 by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace pocketvlm
