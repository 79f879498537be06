#include "data/preprocess/utf8.h"

namespace pocketvlm {

Utf8Char read_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto trail = [&](std::size_t i) { return i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  if ((first & 0xE0) == 0xC0 && trail(1)) {
    const std::uint32_t code = (first & 0x1F) << 6 | (byte(1) & 0x3Fu);
    if (code >= 0x80) return {code, 2, true};
  } else if ((first & 0xF0) == 0xE0 && trail(1) && trail(2)) {
    const std::uint32_t code = (first & 0x0F) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3, true};
  } else if ((first & 0xF8) == 0xF0 && trail(1) && trail(2) && trail(3)) {
    const std::uint32_t code =
        (first & 0x07) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
    if (code >= 0x10000 && code <= 0x10FFFF) return {code, 4, true};
  }
  return {0xFFFD, 1, false};
}

void append_utf8(std::uint32_t code_point, std::string& out) {
  const auto push = [&](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | code_point >> 6);
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | code_point >> 12);
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | code_point >> 18);
    push(0x80 | (code_point >> 12 & 0x3F));
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

std::u32string letters_of(std::string_view text) {
  std::u32string letters;
  while (!text.empty()) {
    const Utf8Char letter = read_utf8(text);
    letters.push_back(letter.code_point);
    text.remove_prefix(static_cast<std::size_t>(letter.size));
  }
  return letters;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char character = read_utf8(text);
    if (character.valid) {
      out.append(text.substr(0, static_cast<std::size_t>(character.size)));
    } else {
      append_utf8(character.code_point, out);
    }
    text.remove_prefix(static_cast<std::size_t>(character.size));
  }
  return out;
}

}  // namespace pocketvlm
