#include "apps/light_commands.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "apps/ablate.h"
#include "apps/ablation_config.h"
#include "apps/data_commands.h"
#include "apps/inspect_image.h"
#include "apps/inspect_model.h"
#include "apps/inspect_tokens.h"
#include "apps/recipe_config.h"
#include "apps/released_commands.h"
#include "apps/training_views.h"
#include "base/files.h"
#include "base/json.h"
#include "model/config.h"

namespace pocketvlm {
namespace {

/// What kind of config a JSON file holds, judged by the keys that only this kind has.
std::string config_kind(const Json& json, const std::string& path) {
  PV_CHECK(json.is_object(), "{}: expected an object, got {}", path, json.type_name());
  const auto has = [&](std::initializer_list<const char*> keys) {
    return std::any_of(keys.begin(), keys.end(), [&](const char* key) { return json.contains(key); });
  };
  if (has({"variants"})) return "ablation";
  if (has({"policy", "judge", "rollout", "preference"})) return "loop";  // which may hold "evaluation", too
  if (has({"stages", "alignment", "exports", "evaluation"})) return "recipe";
  if (has({"vision", "projector", "language"})) return "model";
  return "stage";
}

void explain(const CommandLine& line) {
  Json json = std::filesystem::exists(line.file) ? read_json(line.file) : Json(nullptr);
  if (json.is_null()) {
    std::fputs(explain_config(load_model_config(line.file)).c_str(), stdout);
    return;
  }
  for (const std::string& assignment : line.overrides) apply_override(json, assignment);
  const std::string kind = config_kind(json, line.file);
  std::string text;
  if (kind == "recipe") text = explain_config(read_config<RecipeConfig>(json, line.file));
  if (kind == "ablation") text = explain_config(read_config<AblationConfig>(json, line.file));
  if (kind == "loop") text = explain_config(read_config<RlaifConfig>(json, line.file));
  if (kind == "model") text = explain_config(read_config<ModelConfig>(json, line.file));
  if (kind == "stage") text = explain_config(read_config<StageConfig>(json, line.file));
  std::fputs(text.c_str(), stdout);
}

}  // namespace

bool run_light_command(const CommandLine& line) {
  if (line.command == "explain") explain(line);
  else if (line.command == "train" && !line.simulate_ranks.empty()) simulate_ranks(line);
  else if (line.command == "plot") plot_runs(line);
  else if (line.command == "ablate") ablate(line);
  else if (line.command == "inspect model") inspect_model(line);
  else if (line.command == "inspect image") inspect_image(line);
  else if (line.command == "inspect checkpoint") inspect_checkpoint(line);
  else if (line.command == "inspect tokens") inspect_tokens(line);
  else if (line.command == "import" && !needs_engine(line)) import_release(line);
  else if (line.command == "save-hf") save_release(line);
  else if (line.command == "data check") data_check(line);
  else if (line.command == "data scenes") data_scenes(line);
  else if (line.command == "data ocr") data_ocr(line);
  else return false;
  return true;
}

void check_heavy_config(const CommandLine& line) {
  if (line.command == "run") {
    const auto recipe = load_config<RecipeConfig>(line.file, line.overrides);
    load_model_config(recipe.model);
  } else if (line.command == "train") {
    load_config<StageConfig>(line.file, line.overrides);
  } else if (line.command.starts_with("rlaif") && line.file.ends_with(".json") && line.command != "rlaif score") {
    load_config<RlaifConfig>(line.file, line.overrides);
  } else if (!line.checkpoint.empty()) {
    PV_CHECK(std::filesystem::exists(std::filesystem::path(line.checkpoint) / "config.json"),
             "{}: is not a checkpoint folder (no config.json in it)",
             line.checkpoint);
  }
}

}  // namespace pocketvlm
