#pragma once

#include <torch/types.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "data/packed_loader.h"
#include "trainer/step_guard.h"

namespace pocketvlm {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

/// Sums over steps; means and rates are made of them when they are shown.
struct StepTotals {
  int64_t steps = 0;
  double loss = 0;  // sum of the steps' mean losses
  int64_t tokens = 0;
  int64_t images = 0;
  double seconds = 0;

  void visit_fields(auto&& field) {
    field("steps", steps, "optimizer steps");
    field("loss", loss, "sum of the losses of these steps");
    field("tokens", tokens, "visual and text tokens");
    field("images", images, "pictures");
    field("seconds", seconds, "wall time");
  }
  void add(const StepTotals& other);
};

/// Everything beside tensors that an interrupted stage needs to end with the same bits.
struct TrainingState {
  int64_t threads = 0;        // another number of threads adds in another order: other last bits
  int64_t ranks = 1;          // so does another number of ranks
  int64_t packs_per_step = 0; // of all ranks together; 0: not recorded
  StepTotals total;           // total.steps: optimizer steps done
  StepTotals window;          // since the last line of metrics
  StepTotals first, last;     // first and last tenth of the stage
  int64_t metrics_bytes = 0;  // metrics.jsonl is cut to this length
  int64_t samples_bytes = 0;  // samples.jsonl, too
  LoaderState loader;
  GuardState guard;
  std::vector<std::vector<std::string>> skipped;     // source, place, reason
  int64_t damaged = 0;                               // samples that a rank dropped while decoding; not in `loader`
  std::map<std::string, std::string> frozen_hashes;  // by parameter, when the stage began

  void visit_fields(auto&& field) {
    field("threads", threads, "of LibTorch");
    field("ranks", ranks, "processes that trained");
    field("packs_per_step", packs_per_step, "of all ranks together; 0: not recorded");
    field("total", total, "since the start");
    field("window", window, "since the last line of metrics");
    field("first", first, "first tenth of the stage");
    field("last", last, "last tenth of the stage");
    field("metrics_bytes", metrics_bytes, "length of metrics.jsonl");
    field("samples_bytes", samples_bytes, "length of samples.jsonl");
    field("loader", loader, "position in the data");
    field("guard", guard, "what is normal, and how many steps were skipped");
    field("skipped", skipped, "samples left out: source, place, reason");
    field("damaged", damaged, "samples whose pictures could not be decoded, on all ranks");
    field("frozen_hashes", frozen_hashes, "of frozen parameters when the stage began");
  }
};

struct SavedTraining {
  TrainingState state;
  NamedTensors weights;  // trainable parameters
  NamedTensors moments;  // Optimizer::state()
};

/// Writes a resumable state of one process, whole, and with it the state of LibTorch's random generator (StateWriter).
void save_training_state(const std::string& folder,
                         const TrainingState& state,
                         const NamedTensors& weights,
                         const NamedTensors& moments);

/// Reads the newest undamaged one back and restores LibTorch's random generator; nothing when the folder has none.
/// Throws Error when all are damaged.
std::optional<SavedTraining> load_training_state(const std::string& folder);

}  // namespace pocketvlm
