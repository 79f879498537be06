#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"

namespace pocketvlm::test {

/// An empty folder of this process.
inline std::string fresh_folder(const std::string& name) {
  const std::string folder =
      (std::filesystem::temp_directory_path() / ("rlaif_rules_" + std::to_string(::getpid())) / name).string();
  std::filesystem::remove_all(folder);
  make_folders(folder);
  return folder;
}

/// Writes `rows` as JSON lines; returns the path.
inline std::string write_lines(const std::string& path, const std::vector<Json>& rows) {
  std::string lines;
  for (const Json& row : rows) lines += row.dump() + "\n";
  write_file_atomic(path, lines);
  return path;
}

inline std::string write_instructions(const std::string& folder, const std::vector<Json>& rows) {
  return write_lines(folder + "/instructions.jsonl", rows);
}

}  // namespace pocketvlm::test
