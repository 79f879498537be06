#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "model/vision_language_model.h"

namespace pocketvlm {

struct LoraConfig {
  int64_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;
  std::vector<std::string> targets = {"language.layers.*_proj"};
  void visit_fields(auto&& field) {
    field("rank", rank, "of the two factors", in_range(1, 4096));
    field("alpha", alpha, "the update is scaled by alpha / rank", at_least(0));
    field("dropout", dropout, "on the input of the update", in_range(0, 0.99));
    field("targets", targets, "patterns of the Linear modules that get an update");
  }
};

/// Adds low-rank updates W + alpha/rank * B A to every Linear that matches, named <module>.lora_a [rank, in] and <module>.lora_b
/// [out, rank] (b starts at zero: the model is unchanged at first). Returns the module names; none is an Error.
std::vector<std::string> add_lora(torch::nn::Module& model, const LoraConfig& config, uint64_t seed);
/// Folds the updates into the weights and removes them.
void merge_lora(torch::nn::Module& model);

}  // namespace pocketvlm
