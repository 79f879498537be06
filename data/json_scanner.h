#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace pocketvlm {

/// Walks a JSON text that holds one list and reports where each element begins and ends (byte
/// offsets) and the line it begins on, without building any value. The grammar of RFC 8259 is
/// checked in full; encoding and double keys are not, since they concern one element and its reader
/// checks them. Throws Error with file, line and column when the text is not JSON or not a list.
void scan_json_list(
    std::string_view text,
    const std::string& where,
    const std::function<void(std::size_t begin, std::size_t end, std::size_t line)>& element);

}  // namespace pocketvlm
