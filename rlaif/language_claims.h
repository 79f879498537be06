#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rlaif/claims.h"

namespace pocketvlm {

/// What a sentence states in a language that the embedded world has patterns of (data/scenes/language_patterns.h); asked in
/// the words of its yes/no questions. Nothing when it is no mere list of things, of things at a place, or of what a sign says.
/// `sentence` is without its end mark; `language` a CLDR code.
std::optional<std::vector<Claim>> claims_in(const std::string& language, const std::string& sentence);

/// The language whose patterns read most of these sentences, and how many they read; none: empty and 0.
struct LanguageGuess {
  std::string language;
  std::size_t understood = 0;
};
LanguageGuess guess_language(const std::vector<std::string>& sentences);

/// A yes/no question in the words of a language's patterns, taken apart.
struct PatternQuestion {
  std::string language;
  std::string name;   // empty: about the sign
  int cell = -1;      // of the 3 x 3 grid; -1: anywhere
  int count = 0;      // exactly so many; 0: at least one
  std::optional<std::string> writing;  // what the sign is said to say
};
std::optional<PatternQuestion> read_pattern_question(const std::string& question);

}  // namespace pocketvlm
