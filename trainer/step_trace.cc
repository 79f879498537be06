#include "trainer/step_trace.h"

#include <ATen/Context.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <filesystem>

#include "base/error.h"
#include "base/log.h"

namespace pocketvlm {
namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

void start_recording() {
  const ProfilerConfig config(ProfilerState::KINETO, /*report_input_shapes=*/true);
  std::set<ActivityType> activities = {ActivityType::CPU};
  if (at::hasCUDA()) activities.insert(ActivityType::CUDA);
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(
      config,
      activities,
      {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION, at::RecordScope::USER_SCOPE});
}

}  // namespace

StepTrace::StepTrace(const std::optional<StepTraceConfig>& config, std::string path)
    : config_(config), path_(std::move(path)) {}

StepTrace::~StepTrace() {
  if (recording_) profiler::disableProfiler();
}

void StepTrace::before_step(int64_t step) {
  if (!config_ || recording_ || step < config_->first_step || step > config_->last_step()) return;
  start_recording();
  recording_ = true;
}

void StepTrace::after_step(int64_t step) {
  if (!recording_ || step < config_->last_step()) return;
  recording_ = false;
  const std::string unfinished = path_ + ".unfinished.json";
  profiler::disableProfiler()->save(unfinished);  // tells of no failure
  std::error_code error;
  std::filesystem::rename(unfinished, path_, error);
  PV_CHECK(!error, "{}: the trace cannot be written: {}", path_, error.message());
  spdlog::info("{}: steps {} to {}; open it in ui.perfetto.dev", path_, config_->first_step, step);
}

}  // namespace pocketvlm
