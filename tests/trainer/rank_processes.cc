#include "rank_processes.h"

#include <filesystem>
#include <fstream>
#include <iterator>

namespace pocketvlm::test {

std::vector<pid_t> ranks_with(const std::string& argument_part) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string command((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const bool is_program = command.substr(0, command.find('\0')).ends_with("/rank_program");
    if (is_program && command.find(argument_part) != std::string::npos) found.push_back(std::stoi(name));
  }
  return found;
}

}  // namespace pocketvlm::test
