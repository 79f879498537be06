#pragma once

#include <future>
#include <string>
#include <vector>

#include "trainer/distributed/communicator.h"
#include "trainer/state_files.h"
#include "trainer/tensor_slice.h"
#include "trainer/training_state.h"

namespace pocketvlm {

/// The tensors of a state: of everything that learns, what this rank is to write.
struct StateSlices {
  std::vector<TensorSlice> weights, moments, averages;
};

/// Writes resumable states (state_files.h), and keeps the last two of them.
///
/// In the background a state takes three steps, so that training waits for the first alone:
///   begin      copies the slices into host memory, which is kept for the states after (fresh pages cost several times what
///              copying does); a thread of this rank writes, syncs and hashes its file
///   complete   once all ranks have written: rank 0, again in a thread, lists the files in complete.json
///   finish     waits until the state counts
/// These three and `save` are collective; threads never talk to other ranks. What failed on one rank, be it in a thread, is
/// thrown as an Error on all of them by the next of these calls; the states before stay as they are. A process that is killed
/// leaves at worst a folder without complete.json, which the next save of that step replaces.
class StateWriter {
 public:
  /// `ranks` may be null: one process.
  explicit StateWriter(std::string folder, Communicator* ranks = nullptr);
  /// A process that is alone finishes what it began, also when the stage ends by an error.
  ~StateWriter();
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;

  /// Returns when the state counts; takes no copy, and gives back the memory of those before. `logs`: files that the state names
  /// a length of; they are on disk before the state counts.
  void save(const TrainingState& state, const StateSlices& slices, const std::vector<std::string>& logs = {});

  /// Finishes the state before, if there is one: never two at once.
  void begin(const TrainingState& state, const StateSlices& slices, const std::vector<std::string>& logs = {});
  bool in_progress() const { return write_.valid(); }  // begun and not yet completed; the same on all ranks
  bool written() const;                                // this rank has nothing left to write
  void complete();                                     // waits for this rank's thread, and the others'
  void finish();

 private:
  void start(const TrainingState& state, const StateSlices& slices, const std::vector<std::string>& logs, std::launch launch);
  void throw_on_all(const std::string& problem) const;
  std::vector<std::string> gather(const std::string& text) const;

  std::string folder_;
  Communicator* ranks_;
  int rank_, size_;
  std::launch launch_ = std::launch::async;  // of the state that was begun last
  TrainingState state_;
  torch::Tensor memory_;  // bytes; of the copies in the background
  std::future<state_files::Shard> write_;
  bool completing_ = false;       // the same on all ranks
  std::future<void> completion_;  // rank 0 alone
};

}  // namespace pocketvlm
