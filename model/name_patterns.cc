#include "model/name_patterns.h"

#include <algorithm>

#include "base/config.h"
#include "base/error.h"

namespace pocketvlm {
namespace {

/// "*" after each leading part that names have: what a person may have meant.
std::vector<std::string> component_patterns(const std::vector<std::string>& names) {
  std::vector<std::string> patterns = {"*"};
  for (const std::string& name : names) {
    const std::string pattern = name.substr(0, name.find('.')) + ".*";
    if (std::find(patterns.begin(), patterns.end(), pattern) == patterns.end()) patterns.push_back(pattern);
  }
  return patterns;
}

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) {
  std::size_t n = 0, p = 0, star = std::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;  // let the last star take one character more
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<bool> match_names(const std::vector<std::string>& names,
                              const std::vector<std::string>& patterns,
                              const std::string& where) {
  std::vector<bool> chosen(names.size(), false);
  for (const std::string& pattern : patterns) {
    bool any = false;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (matches_pattern(names[i], pattern)) {
        chosen[i] = true;
        any = true;
      }
    }
    if (any) continue;
    const std::vector<std::string> known = component_patterns(names);
    const auto close = closest_name(pattern, known);
    fail("{}: the pattern \"{}\" matches nothing{}; components: {}",
         where,
         pattern,
         close ? fmt::format(", did you mean \"{}\"?", *close) : "",
         fmt::join(known, ", "));
  }
  return chosen;
}

}  // namespace pocketvlm
