#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/distributed/communicator.h"
#include "trainer/tensor_slice.h"
#include "trainer/training_state.h"

namespace pocketvlm {

/// Reads resumable states (state_files.h) that StateWriter wrote. All numbers are addressed by name and place, so a state can be
/// read by any number of ranks under any sharding. With several ranks every method is collective.
class StateStore {
 public:
  /// `ranks` may be null: one process.
  explicit StateStore(std::string folder, Communicator* ranks = nullptr);

  /// The newest state whose files are all undamaged; a damaged one is named in a warning and left behind. Nothing when there
  /// is none; throws Error when there are only damaged ones.
  std::optional<TrainingState> find() const;

  /// Copies a state into these slices (the values must be whole tensors or runs of their numbers). Throws Error when a
  /// number is missing, or when a saved tensor is not among `tensors` (name and shape of all, on every rank).
  using Tensors = std::vector<std::pair<std::string, std::vector<int64_t>>>;
  void restore_weights(int64_t step, const std::vector<TensorSlice>& weights, const Tensors& tensors) const;
  void restore_moments(int64_t step, const std::vector<TensorSlice>& moments) const;
  void restore_averages(int64_t step, const std::vector<TensorSlice>& averages) const;
  NamedTensors whole_weights(int64_t step) const;
  NamedTensors whole_moments(int64_t step) const;
  /// Returns false when no rank like this one had written the state.
  bool restore_random_state(int64_t step) const;

 private:
  std::string damage(int64_t step) const;
  NamedTensors whole_tensors(int64_t step, const std::string& prefix) const;
  void restore(int64_t step, const std::string& prefix, const std::vector<TensorSlice>& slices) const;

  std::string folder_;
  Communicator* ranks_;
  int rank_, size_;
};

}  // namespace pocketvlm
