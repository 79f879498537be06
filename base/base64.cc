#include "base/base64.h"

#include <cstdint>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

std::string encode_base64(std::string_view bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      word = word << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += i + k <= bytes.size() ? kAlphabet[word >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

std::string decode_base64(std::string_view text, const std::string& where) {
  PV_CHECK(text.size() % 4 == 0, "{}: base64 of {} characters; they must come in fours", where, text.size());
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::uint32_t word = 0;
    std::size_t padding = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const char c = text[i + k];
      const bool may_pad = i + 4 == text.size() && k >= 2;
      const std::size_t value = kAlphabet.find(c);
      padding += may_pad && c == '=' ? 1 : 0;
      PV_CHECK(value != std::string_view::npos ? padding == 0 : may_pad && c == '=',
               "{}: character {} is not base64",
               where,
               i + k + 1);
      word = word << 6 | (value == std::string_view::npos ? 0U : static_cast<std::uint32_t>(value));
    }
    for (std::size_t k = 0; k < 3 - padding; ++k)
      bytes += static_cast<char>(word >> (16 - 8 * k) & 255);
  }
  return bytes;
}

}  // namespace pocketvlm
