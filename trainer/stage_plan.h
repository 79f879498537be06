#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "trainer/stage_config.h"
#include "trainer/training_work.h"

namespace pocketvlm {

/// What a plan has to assume because no data is read.
struct PlanAssumptions {
  double text_tokens = 64;       // a sample's tokens beside the visual ones
  double target_share = 0.9;     // of the text tokens: those that are learned
  double slices = 0;             // a picture's; 0: one without slicing, else half of the most tiles beside the overview
  double peak_tflops = 989;      // of one GPU: dense bf16 of an H100 (NVIDIA's data sheet)
  double mfu = 0.4;              // part of that peak which the stage reaches
  int64_t samples = 0;           // to be learned from; 0: those of config.steps
};

/// What one rank of `ranks` needs and sends, from the shapes of model and stage alone.
struct RankPlan {
  int64_t ranks = 0;
  double weights_bytes = 0;      // float32 masters that stay on the rank
  double gradients_bytes = 0;
  double moments_bytes = 0;      // AdamW: two a number; Muon: one
  double averages_bytes = 0;     // under ema_decay
  double gathered_bytes = 0;     // full sharding: blocks that are whole and their gradients
  double activations_bytes = 0;  // of one pack
  double host_bytes = 0;         // of the host: weights before and after the steps, and copies of states that are being written
  double first_host_bytes = 0;   // the same of rank 0, which writes the finished model
  double traffic_bytes = 0;      // sent by the rank in an optimizer step
  double operations = 0;         // of the rank in an optimizer step
  double samples_per_step = 0;   // of all ranks
  double steps = 0;
  double days = 0;

  double memory_bytes() const {
    return weights_bytes + gradients_bytes + moments_bytes + averages_bytes + gathered_bytes + activations_bytes;
  }
  Json to_json() const;
};

/// What learns in a stage, from its patterns alone.
LearningComponents learning_components(const StageConfig& config);

RankPlan plan_stage(const StageConfig& config, const ModelConfig& model, const PlanAssumptions& assumptions, int64_t ranks);

/// A table for people: one line a number of ranks, with the formulas' assumptions above.
std::string plan_text(const StageConfig& config,
                      const ModelConfig& model,
                      const PlanAssumptions& assumptions,
                      const std::vector<RankPlan>& plans);

}  // namespace pocketvlm
