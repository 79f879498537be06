#include "apps/bench.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "rlaif/bench_rlaif.h"
#include "trainer/bench_training.h"

namespace pocketvlm {
namespace {

using Case = BenchResult (*)(const BenchSettings&);

/// Every kind of work that can be timed.
const std::map<std::string, Case>& cases() {
  static const std::map<std::string, Case> all = {
      {"sft", bench_training},
      {"stage1", bench_training},
      {"dpo", bench_preferences},
      {"rollout", bench_rollout},
      {"judge", bench_judge},
  };
  return all;
}

}  // namespace

void bench(const CommandLine& line) {
  const auto found = cases().find(line.task);
  if (found == cases().end()) {
    std::string known;
    for (const auto& [name, run] : cases()) known += (known.empty() ? "" : ", ") + name;
    fail("bench: unknown task \"{}\" (known: {})", line.task, known);
  }
  BenchSettings settings;
  settings.shapes = BenchShapes::read(line.shapes);
  settings.task = line.task;
  settings.dtype = line.dtype.empty() ? "bf16" : line.dtype;
  settings.device = line.device;
  settings.steps = line.steps;
  settings.batch = line.batch;
  settings.padded = line.padded;
  if (line.longest_text > 0) settings.longest_text = line.longest_text;
  const bool packs = line.task == "sft" || line.task == "stage1";
  PV_CHECK(packs || !line.padded, "bench: --padded is for sft and stage1, not {}", line.task);
  PV_CHECK(packs || line.longest_text == 0, "bench: --longest-text is for sft and stage1, not {}", line.task);
  if (line.threads > 0) at::set_num_threads(static_cast<int>(line.threads));
  BenchResult result = found->second(settings);
  std::vector<double> sorted = result.seconds;
  std::sort(sorted.begin(), sorted.end());
  double total = 0;
  for (const double seconds : sorted) total += seconds;
  Json report = {{"task", line.task},
                 {"median_s", sorted[sorted.size() / 2]},
                 {"useful_per_s", result.useful / total},
                 {"params_m", static_cast<double>(result.parameters) / 1e6},
                 {"peak_rss_mib", peak_rss_mib()},
                 {"dtype", settings.dtype},
                 {"device", settings.device},
                 {"threads", at::get_num_threads()}};
  if (settings.device != "cpu") report["peak_device_mib"] = result.peak_device_mib;
  if (result.details.is_object()) report.update(result.details);
  if (line.json) {
    std::fputs((report.dump() + "\n").c_str(), stdout);
    return;
  }
  for (const auto& item : report.items()) fmt::print("{:<24}{}\n", item.key(), item.value().dump());
}

}  // namespace pocketvlm
