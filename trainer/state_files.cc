#include "trainer/state_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

namespace pocketvlm::state_files {

namespace fs = std::filesystem;

std::string step_folder(const std::string& folder, int64_t step) { return fmt::format("{}/step-{:09}", folder, step); }

std::string shard_name(int rank, int size) { return fmt::format("rank-{:05}-of-{:05}.safetensors", rank, size); }

Manifest read_manifest(const std::string& step_folder) {
  const std::string path = step_folder + "/" + kComplete;
  return read_config<Manifest>(read_json(path), path);
}

std::vector<int64_t> complete_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  if (!fs::is_directory(folder)) return steps;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && fs::exists(entry.path() / kComplete)) steps.push_back(std::stoll(name.substr(5)));
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

/// Four lanes of multiply and shift: fast enough that checking a state costs less than reading it.
std::string hash_of(const MappedFile& file) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15ULL;
  uint64_t lanes[4] = {1, 2, 3, 4};
  const auto mix = [](uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * kFactor;
    return hash ^ (hash >> 29);
  };
  std::size_t at = 0;
  for (; at + 32 <= file.size(); at += 32) {
    uint64_t words[4];
    std::memcpy(words, file.data() + at, 32);
    for (int lane = 0; lane < 4; ++lane) lanes[lane] = mix(lanes[lane], words[lane]);
  }
  uint64_t hash = file.size();
  for (; at < file.size(); ++at) hash = mix(hash, static_cast<uint64_t>(file.data()[at]));
  for (const uint64_t lane : lanes) hash = mix(hash, lane);
  return fmt::format("{:016x}", hash);
}

}  // namespace pocketvlm::state_files
