#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace pocketvlm {

using Json = nlohmann::ordered_json;

/// Parses JSON strictly: no comments, no trailing commas, no duplicate keys, at most `max_depth`
/// nested levels, numbers that a double or int64 can hold. `where` (file, or file:line) starts
/// every error; the error also names line and column.
Json parse_json(std::string_view text, const std::string& where, int max_depth = 64);

/// Reads and parses a whole file. Throws Error naming the file.
Json read_json(const std::string& path);

/// Writes indented JSON atomically. NaN and infinity are refused: JSON has no word for them.
void write_json(const std::string& path, const Json& value);

}  // namespace pocketvlm
