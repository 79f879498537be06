#pragma once

#include <cstdint>
#include <string>

#include "base/config.h"

namespace pocketvlm {

/// How a stage uses the ranks that mpirun or srun started. LibTorch-free.
struct DistributedConfig {
  std::string sharding = "replicated";
  bool overlap = true;
  double timeout_s = 600;

  void visit_fields(auto&& field) {
    field("sharding",
          sharding,
          "what each rank keeps: replicated (everything), optimizer (moments are divided, ZeRO-1), full (weights, "
          "gradients and moments of transformer blocks are divided, ZeRO-3; blocks are recomputed in backward)",
          one_of({"replicated", "optimizer", "full"}));
    field("overlap",
          overlap,
          "exchange weights and gradients while computing goes on; no bit depends on it, false is for comparing and debugging");
    field("timeout_s",
          timeout_s,
          "seconds that ranks wait for one that does not arrive before the job is ended with its name",
          in_range(1, 1e6));
  }
};

}  // namespace pocketvlm
