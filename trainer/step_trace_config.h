#pragma once

#include <cstdint>

#include "base/config.h"

namespace pocketvlm {

/// Which steps of a stage are recorded. LibTorch-free.
struct StepTraceConfig {
  int64_t first_step = 2;  // the first one allocates
  int64_t steps = 1;

  void visit_fields(auto&& field) {
    field("first_step", first_step, "first optimizer step that is recorded, counted from 1", in_range(1, 1e12));
    field("steps", steps, "how many are; each takes tens of megabytes of memory and file", in_range(1, 1000));
  }
  int64_t last_step() const { return first_step + steps - 1; }
};

}  // namespace pocketvlm
