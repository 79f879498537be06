#pragma once

#include <cstdint>

namespace pocketvlm {

bool is_letter(std::uint32_t code_point);      // general category L*
bool is_number(std::uint32_t code_point);      // general category N*
bool is_whitespace(std::uint32_t code_point);  // property White_Space

}  // namespace pocketvlm
