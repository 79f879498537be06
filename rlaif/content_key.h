#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace pocketvlm {

/// 16 hexadecimal digits that stand for the bytes of all parts, and for where one part ends and the
/// next begins. Guards against mixing results of different inputs; not against forgery.
std::string content_key(std::initializer_list<std::string_view> parts);

}  // namespace pocketvlm
