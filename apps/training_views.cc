#include "apps/training_views.h"

#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "trainer/report/run_curves.h"
#include "trainer/stage_plan.h"

namespace pocketvlm {
namespace {

/// The model of the stage: named on the command line, or that of the checkpoint it starts from.
ModelConfig planned_model(const CommandLine& line, const StageConfig& config) {
  if (!line.model.empty()) return load_model_config(line.model);
  const std::string path = config.init_from + "/config.json";
  PV_CHECK(std::filesystem::exists(path),
           "{}.init_from: \"{}\" is no checkpoint folder on this machine; name the model with --model, e.g. minicpmv-2.5",
           line.file,
           config.init_from);
  const Json json = read_json(path);
  PV_CHECK(json.is_object() && json.contains("model"), "{}: no \"model\" in it", path);
  return read_config<ModelConfig>(json["model"], path);
}

}  // namespace

void simulate_ranks(const CommandLine& line) {
  const auto config = load_config<StageConfig>(line.file, line.overrides);
  const ModelConfig model = planned_model(line, config);
  PlanAssumptions assumptions;
  assumptions.text_tokens = line.text_tokens;
  assumptions.slices = line.slices;
  assumptions.mfu = line.mfu;
  assumptions.peak_tflops = line.peak_tflops;
  assumptions.samples = line.samples;
  std::vector<RankPlan> plans;
  for (const std::int64_t ranks : line.simulate_ranks) plans.push_back(plan_stage(config, model, assumptions, ranks));
  if (!line.json) {
    std::fputs(plan_text(config, model, assumptions, plans).c_str(), stdout);
    return;
  }
  Json list = Json::array();
  for (const RankPlan& plan : plans) list.push_back(plan.to_json());
  const Json report = {{"stage", config.name}, {"sharding", config.distributed.sharding}, {"plans", list}};
  std::fputs((report.dump() + "\n").c_str(), stdout);
}

void plot_runs(const CommandLine& line) {
  const std::string path = line.out.empty() ? "plot.html" : line.out;
  const RunCurves curves = RunCurves::read(line.runs);
  write_file_atomic(path, path.ends_with(".png") ? encode_png(curves.picture()) : curves.page());
  if (line.json) {
    std::fputs((Json{{"file", path}}.dump() + "\n").c_str(), stdout);
  } else {
    fmt::print("{}\n", path);
  }
}

}  // namespace pocketvlm
