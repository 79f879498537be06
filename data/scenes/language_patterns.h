#pragma once

#include <array>
#include <map>
#include <string>

namespace pocketvlm {

/// How a language other than English speaks of scenes, without inflection: names stand after colons and in lists. "{0}" stands
/// for a name or list, "{1}" for a position or number.
struct LanguagePatterns {
  const char* caption_prompt;
  const char* caption;
  const char* detailed_prompt;
  const char* detailed_item;  // one object
  const char* separator;
  const char* last_separator;
  const char* counted;        // name and number, for two and more
  const char* name_prompt;
  const char* exists;
  const char* exists_at;
  const char* exact_count;
  const char* how_many;
  const char* how_many_objects;
  const char* where;
  const char* what_at;
  const char* read_sign;
  const char* sign_at;
  const char* sign_says;
  const char* yes;
  const char* no;
  const char* nothing;
  std::array<const char*, 9> positions;
};

/// By CLDR code.
const std::map<std::string, LanguagePatterns>& language_patterns();

}  // namespace pocketvlm
