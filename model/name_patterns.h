#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// True when `name` matches: `*` in the pattern stands for any run of characters, also an empty one.
bool matches_pattern(std::string_view name, std::string_view pattern);

/// For each name, whether any pattern matches it. A pattern that matches no name is an Error that starts with `where`
/// and suggests the closest component.
std::vector<bool> match_names(const std::vector<std::string>& names,
                              const std::vector<std::string>& patterns,
                              const std::string& where);

}  // namespace pocketvlm
