#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"

namespace pocketvlm {

/// Low-rank updates of a model's Linears; LibTorch-free.
struct LoraConfig {
  int64_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;
  std::vector<std::string> targets = {"language.layers.*_proj"};
  void visit_fields(auto&& field) {
    field("rank", rank, "of the two factors", in_range(1, 4096));
    field("alpha", alpha, "the update is scaled by alpha / rank", at_least(0));
    field("dropout", dropout, "on the input of the update, in training", in_range(0, 0.99));
    field("targets", targets,
          "name patterns of the Linears that get an update, e.g. language.layers.*.q_proj; released MiniCPM-V tunes q, k, v and o, "
          "MobileVLM all of language.layers.*_proj");
  }
  void validate(const std::string& path) const {
    PV_CHECK(!targets.empty(), "{}.targets: empty; name the layers that get an update", path);
  }
};

}  // namespace pocketvlm
