#pragma once

#include <string>
#include <string_view>

namespace pocketvlm {

/// RFC 4648, with padding, without line breaks.
std::string encode_base64(std::string_view bytes);

/// The bytes of a base64 text. Throws Error that starts with `where` and names the first character
/// that does not belong there.
std::string decode_base64(std::string_view text, const std::string& where);

}  // namespace pocketvlm
