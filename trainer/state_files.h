#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/files.h"
#include "trainer/training_state.h"

/// How resumable states lie on disk. StateWriter writes them, StateStore reads them:
///   <folder>/step-<n>/rank-<r>-of-<ranks>.safetensors   what rank r wrote: "weights/<name>@<first number>", moments and averages
///                                                       alike, and the state of its random generator
///   <folder>/step-<n>/complete.json                     TrainingState, and size and hash of every file; written last
/// A state without complete.json is not there.
namespace pocketvlm::state_files {

inline constexpr const char* kWeights = "weights/";
inline constexpr const char* kMoments = "moments/";
inline constexpr const char* kAverages = "averages/";
inline constexpr const char* kRandomState = "random_state";
inline constexpr const char* kComplete = "complete.json";

/// One file of a state, as complete.json lists it.
struct Shard {
  std::string file;
  int64_t bytes = 0;
  std::string hash;
  void visit_fields(auto&& field) {
    field("file", file, "name", required());
    field("bytes", bytes, "size", required());
    field("hash", hash, "of its bytes", required());
  }
};

struct Manifest {
  TrainingState state;
  std::vector<Shard> shards;
  void visit_fields(auto&& field) {
    field("state", state, "everything beside tensors", required());
    field("shards", shards, "files of all ranks", required());
  }
};

std::string step_folder(const std::string& folder, int64_t step);
std::string shard_name(int rank, int size);
Manifest read_manifest(const std::string& step_folder);

/// Steps of the states that count, the newest first.
std::vector<int64_t> complete_steps(const std::string& folder);

/// 64-bit hash of a file's bytes, as text.
std::string hash_of(const MappedFile& file);

}  // namespace pocketvlm::state_files
