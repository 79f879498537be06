#include "trainer/training_state.h"

#include "trainer/state_store.h"
#include "trainer/state_writer.h"

namespace pocketvlm {
namespace {

std::vector<TensorSlice> whole_tensors(const NamedTensors& tensors) {
  std::vector<TensorSlice> slices;
  for (const auto& [name, tensor] : tensors) slices.push_back(whole_tensor(name, tensor));
  return slices;
}

}  // namespace

void StepTotals::add(const StepTotals& other) {
  steps += other.steps;
  loss += other.loss;
  tokens += other.tokens;
  images += other.images;
  seconds += other.seconds;
}

void save_training_state(const std::string& folder,
                         const TrainingState& state,
                         const NamedTensors& weights,
                         const NamedTensors& moments) {
  StateWriter(folder).save(state, {whole_tensors(weights), whole_tensors(moments), {}});
}

std::optional<SavedTraining> load_training_state(const std::string& folder) {
  const StateStore store(folder);
  std::optional<TrainingState> state = store.find();
  if (!state) return std::nullopt;
  SavedTraining saved;
  saved.state = std::move(*state);
  saved.weights = store.whole_weights(saved.state.total.steps);
  saved.moments = store.whole_moments(saved.state.total.steps);
  store.restore_random_state(saved.state.total.steps);
  return saved;
}

}  // namespace pocketvlm
