#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trainer/step_trace_config.h"

namespace pocketvlm {

/// Records what some steps spend their time on, with LibTorch's profiler: every operation (and, on CUDA, kernel) of this thread and
/// of backwards, and the phases that a step names with RECORD_USER_SCOPE("..."). The file is in Chrome's trace format, for
/// chrome://tracing or ui.perfetto.dev. Numbers do not change.
class StepTrace {
 public:
  /// Writes to `path`, replacing what is there. Nothing is recorded without a config.
  StepTrace(const std::optional<StepTraceConfig>& config, std::string path);
  /// A recording that was not finished is dropped.
  ~StepTrace();
  StepTrace(const StepTrace&) = delete;
  StepTrace& operator=(const StepTrace&) = delete;

  void before_step(int64_t step);  // counted from 1
  /// Writes the file after the last step. Throws Error when that fails.
  void after_step(int64_t step);

 private:
  std::optional<StepTraceConfig> config_;
  std::string path_;
  bool recording_ = false;
};

}  // namespace pocketvlm
