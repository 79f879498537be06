#pragma once

#include <optional>
#include <string>

#include "trainer/event_file.h"
#include "trainer/metrics_log.h"

namespace pocketvlm {

/// The curves of a stage: metrics.jsonl, and beside it the same numbers for TensorBoard. The jsonl is the one that counts; the
/// other is made again from it when a stage continues.
class StageLog {
 public:
  /// Opens <folder>/metrics.jsonl cut to `bytes`.
  StageLog(const std::string& folder, std::int64_t bytes);
  void append(const Json& line);
  std::int64_t bytes() const { return metrics_.bytes(); }
  const std::string& path() const { return metrics_.path(); }  // of metrics.jsonl

 private:
  void add_event(const Json& line, double wall_time);
  MetricsLog metrics_;
  EventFile events_;
};

}  // namespace pocketvlm
