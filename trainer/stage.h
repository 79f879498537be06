#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/checkpoint.h"
#include "trainer/stage_config.h"

namespace pocketvlm {

/// One row of the freeze table: what a component did in a stage.
struct ComponentRow {
  std::string component;  // vision_encoder | projector | language
  int64_t tensors = 0, parameters = 0;
  int64_t trainable_tensors = 0, trainable_parameters = 0;
  bool frozen_identical = true;  // frozen tensors had the same bits before and after
};

struct StageResult {
  std::string name;
  int64_t steps = 0;
  double seconds = 0;
  double first_loss = 0, final_loss = 0;  // means of the first and last tenth of the steps
  double tokens_per_s = 0, images_per_s = 0;
  int64_t samples = 0, skipped = 0;
  std::vector<ComponentRow> components;
  std::string checkpoint;                 // folder
  Json to_json() const;
};

/// Runs one stage in `folder`:
///   config.json        effective config
///   metrics.jsonl      {"step", "loss", "learning_rate", "grad_norm", "tokens_per_s", "images_per_s", "seconds"}
///   state/             resumable: weights, optimizer moments, loader position, random states (atomic)
///   checkpoint/        the finished model (model/checkpoint.h)
///   result.json        StageResult; its presence means the stage is done
///   skipped.jsonl      samples left out, with file, place, reason
/// A finished stage is not run again: its checkpoint is loaded. An interrupted one continues and ends with the same bits.
/// Throws Error when frozen tensors changed, when the loss is not finite (before the update), or when no data is usable.
StageResult run_stage(const StageConfig& config, LoadedModel& model, const std::string& tokenizer_path, const std::string& folder);

}  // namespace pocketvlm
