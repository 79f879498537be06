#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/json.h"
#include "model/checkpoint.h"
#include "trainer/distributed/communicator.h"
#include "trainer/stage_config.h"

namespace pocketvlm {

/// One row of the freeze table: what a component did in a stage.
struct ComponentRow {
  std::string component;  // vision_encoder | projector | language
  int64_t tensors = 0, parameters = 0;
  int64_t trainable_tensors = 0, trainable_parameters = 0;
  bool frozen_identical = true;  // frozen tensors had the same bits before and after

  void visit_fields(auto&& field) {
    field("component", component, "vision_encoder, projector or language");
    field("tensors", tensors, "all of them");
    field("parameters", parameters, "all of them");
    field("trainable_tensors", trainable_tensors, "those that learned");
    field("trainable_parameters", trainable_parameters, "those that learned");
    field("frozen_identical", frozen_identical, "the others had the same bits before and after");
  }
};

struct StageResult {
  std::string name;
  int64_t steps = 0;
  double seconds = 0;
  double first_loss = 0, final_loss = 0;  // means of the first and last tenth of the steps
  double tokens_per_s = 0, images_per_s = 0;
  int64_t samples = 0, skipped = 0, split = 0;
  std::vector<ComponentRow> components;
  std::string checkpoint;                 // folder
  int64_t packs_per_step = 0;             // of all ranks; 0: not recorded
  int64_t bad_steps = 0;                  // skipped by the guard
  int64_t loss_spikes = 0;                // of these, for their loss

  void visit_fields(auto&& field) {
    field("name", name, "of the stage", required());
    field("steps", steps, "optimizer steps", required());
    field("seconds", seconds, "wall time of the steps", required());
    field("first_loss", first_loss, "mean of the first tenth of the steps", required());
    field("final_loss", final_loss, "mean of the last tenth of the steps", required());
    field("tokens_per_s", tokens_per_s, "visual and text tokens");
    field("images_per_s", images_per_s, "pictures");
    field("samples", samples, "packed");
    field("skipped", skipped, "samples left out");
    field("split", split, "long texts that became several samples");
    field("components", components, "freeze table", required());
    field("checkpoint", checkpoint, "folder", required());
    field("packs_per_step", packs_per_step, "of all ranks together; 0: not recorded");
    field("bad_steps", bad_steps, "skipped by the guard");
    field("loss_spikes", loss_spikes, "of these, for a loss far above the recent ones");
  }
  Json to_json() const;
  static StageResult from_json(const Json& json, const std::string& where);
};

/// The model that a stage starts from. Under `full` sharding the weights of transformer blocks stay in the mapped checkpoint: run_stage reads
/// them block by block, so that no rank holds the whole model.
LoadedModel load_stage_model(const StageConfig& config, const std::string& checkpoint);

/// Runs one stage in `folder`:
///   config.json        effective config
///   metrics.jsonl      {"step", "loss", "learning_rate", "grad_norm", "tokens_per_s", "images_per_s", "mfu", "fill", "loading_wait", "seconds"};
///                      fill is the share of the packs' room that tokens take, loading_wait that of the seconds in which rank 0 waited for its
///                      packs. Of several ranks without a GPU also "communication_wait": the
///                      share of the seconds in which rank 0 waited for what other ranks sent. A step that the guard refused, or of which no picture
///                      could be decoded, has a line {"step", "skipped": reason}
///   events.out.tfevents.pocketvlm   the same curves for TensorBoard
///   samples.jsonl      under config.log_samples: {"step", "packs": [[id, ...], ...]}, the samples of all ranks' packs in their order
///   trace.json         the steps of config.trace, as rank 0 saw them (trainer/step_trace.h)
///   state/             resumable: weights, optimizer moments, loader position, random states (StateStore)
///   checkpoint/        the finished model (model/checkpoint.h)
///   checkpoint-ema/    the same with averages of what learned, under ema_decay (trainer/ema.h)
///   result.json        StageResult; its presence means the stage is done
///   changes.jsonl      {"step", "field", "before", "after"}: fields that were changed while it was interrupted; only if there are any
///   skipped.jsonl      samples left out, with file, place, reason
/// A finished stage is not run again: its checkpoint is loaded. An interrupted one continues and ends with the same bits (with the
/// same number of threads and ranks; another number is warned about). What decides how it goes on and not what was (optimizer, steps) may
/// be another when it is continued, if `changed` says so: the folder's config.json is then the new one, and changes.jsonl lists every field
/// with the step after which it changed (trainer/same_config.h).
/// Leaves `model` trained, in evaluation mode, on the CPU; under `full` sharding its transformer blocks are empty on ranks other than 0.
/// Throws Error when frozen tensors changed, when the guard refuses more steps in a row than it allows,
/// when no data is usable (or no picture of any step could be decoded), or when the folder holds results of another configuration.
///   after_step   called after every optimizer step with the number of steps done
///   ranks        the job's; all of them call this with the same arguments, and rank 0 writes. Null: this process is alone
StageResult run_stage(const StageConfig& config,
                      LoadedModel& model,
                      const std::string& tokenizer_path,
                      const std::string& folder,
                      const std::function<void(int64_t)>& after_step = {},
                      Communicator* ranks = nullptr,
                      bool changed = false);

}  // namespace pocketvlm
