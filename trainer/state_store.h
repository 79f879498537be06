#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/distributed/communicator.h"
#include "trainer/tensor_slice.h"
#include "trainer/training_state.h"

namespace pocketvlm {

/// The resumable states of a run, the last two of them:
///   <folder>/step-<n>/rank-<r>-of-<ranks>.safetensors   what rank r wrote: "weights/<name>@<first number>", moments alike, and
///                                                       the state of its random generator
///   <folder>/step-<n>/complete.json                     TrainingState, and size and hash of every file; written last
/// A state without complete.json is not there. All numbers are addressed by name and place, so a state can be read by any
/// number of ranks under any sharding. With several ranks every method is collective.
class StateStore {
 public:
  /// `ranks` may be null: one process.
  explicit StateStore(std::string folder, Communicator* ranks = nullptr);

  /// Writes the slices that this rank is to write. Throws Error when that fails; the states before stay as they are.
  void save(const TrainingState& state,
            const std::vector<TensorSlice>& weights,
            const std::vector<TensorSlice>& moments) const;

  /// The newest state whose files are all undamaged; a damaged one is named in a warning and left behind. Nothing when there
  /// is none; throws Error when there are only damaged ones.
  std::optional<TrainingState> find() const;

  /// Copies a state into these slices (the values must be whole tensors or runs of their numbers). Throws Error when a
  /// number is missing, or when a saved tensor is not among `tensors` (name and shape of all, on every rank).
  using Tensors = std::vector<std::pair<std::string, std::vector<int64_t>>>;
  void restore_weights(int64_t step, const std::vector<TensorSlice>& weights, const Tensors& tensors) const;
  void restore_moments(int64_t step, const std::vector<TensorSlice>& moments) const;
  NamedTensors whole_weights(int64_t step) const;
  NamedTensors whole_moments(int64_t step) const;
  /// Returns false when no rank like this one had written the state.
  bool restore_random_state(int64_t step) const;

 private:
  std::string step_folder(int64_t step) const;
  std::vector<int64_t> complete_steps() const;
  std::string damage(int64_t step) const;
  NamedTensors whole_tensors(int64_t step, const std::string& prefix) const;
  void restore(int64_t step, const std::string& prefix, const std::vector<TensorSlice>& slices) const;

  std::string folder_;
  Communicator* ranks_;
  int rank_, size_;
};

}  // namespace pocketvlm
