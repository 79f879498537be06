#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// The sentences of a text, trimmed, with runs of white space made one space and list marks
/// removed. Ends: . ! ? ; and line breaks, and their full-width and Devanagari forms; not the
/// points of numbers and of common abbreviations. Sentences without letters or digits are left out.
std::vector<std::string> split_sentences(std::string_view text);

/// True when text holds a letter or digit of any script.
bool says_something(std::string_view text);

/// `text` without any of `marks` at its ends.
std::string_view trimmed(std::string_view text, std::string_view marks = " \t\r\n\f\v");

/// What stands between its spaces.
std::vector<std::string> words_of(std::string_view text);

/// ASCII letters in lower case; other bytes as they are.
std::string lower_ascii(std::string_view text);

}  // namespace pocketvlm
