#pragma once

#include <string>

#include "apps/ablation_config.h"
#include "base/json.h"

namespace pocketvlm {

/// Figures of all finished runs: [variant name][metric name] -> one number a seed; null where a run has none.
using AblationFigures = std::map<std::string, std::map<std::string, std::vector<std::optional<double>>>>;

/// {"name", "title", "metrics": [...], "rows": [{"variant", "title", "figures": {metric: {"mean", "deviation", "values"}}, "paper"}]}
Json ablation_json(const AblationConfig& config, const AblationFigures& figures);

/// The same as a Markdown table: measured, and the paper's in brackets of their own columns.
std::string ablation_markdown(const AblationConfig& config, const Json& table);

/// The same as a page that needs no other file, with bars for each metric.
std::string ablation_page(const AblationConfig& config, const Json& table);

}  // namespace pocketvlm
