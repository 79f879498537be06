#include "apps/light_commands.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "apps/ablate.h"
#include "apps/ablation_config.h"
#include "apps/data_check_page.h"
#include "apps/inspect_image.h"
#include "apps/inspect_model.h"
#include "apps/inspect_tokens.h"
#include "apps/recipe_config.h"
#include "apps/released_commands.h"
#include "apps/training_views.h"
#include "base/files.h"
#include "base/json.h"
#include "data/data_check.h"
#include "data/scenes/scene_source.h"
#include "model/config.h"

namespace pocketvlm {
namespace {

void print_json(const Json& value) {
  std::fputs((value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

/// What kind of config a JSON file holds, judged by the keys that only this kind has.
std::string config_kind(const Json& json, const std::string& path) {
  PV_CHECK(json.is_object(), "{}: expected an object, got {}", path, json.type_name());
  const auto has = [&](std::initializer_list<const char*> keys) {
    return std::any_of(keys.begin(), keys.end(), [&](const char* key) { return json.contains(key); });
  };
  if (has({"variants"})) return "ablation";
  if (has({"stages", "alignment", "exports", "evaluation"})) return "recipe";
  if (has({"policy", "judge", "rollout", "preference"})) return "loop";
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

void data_check(const CommandLine& line) {
  const int threads = line.threads > 0 ? static_cast<int>(line.threads)
                                       : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  PV_CHECK(line.tokenizer.empty() == line.model.empty(),
           "data check: lengths in tokens need both --tokenizer and --model; give the other one too");
  std::optional<Tokenizer> tokenizer;
  std::optional<PromptEncoder> encoder;
  if (!line.model.empty()) {
    const ModelConfig model = load_model_config(line.model);
    tokenizer.emplace(Tokenizer::load(line.tokenizer));
    encoder.emplace(*tokenizer, model.prompt, model.image);
  }
  const DataCheckReport report = check_data(line.file, threads, encoder ? &*encoder : nullptr);
  if (!line.html.empty()) write_file_atomic(line.html, data_check_page(line.file, report));
  if (line.json) return print_json(report.to_json());
  fmt::print("{} samples, {} kept, {} skipped\n", report.samples, report.kept, report.skipped());
  for (const auto& [reason, count] : report.reasons) fmt::print("  {:>8}  {}\n", count, reason);
  for (const auto& item : report.listed) fmt::print("{}: {}: {}\n", item.file, item.place, item.reason);
}

void data_scenes(const CommandLine& line) {
  ScenesConfig config;
  config.sprites = line.sprites;
  config.tasks = {{"caption", 1}, {"detailed", 1}, {"vqa", 1}, {"counting", 1}, {"position", 1}, {"ocr", 1}, {"yes_no", 1}, {"chat", 1}};
  config.widths = {224, 336, 448};
  config.heights = {224, 252, 448};
  Json json = config_to_json(config);
  if (!line.languages.empty()) {
    json["languages"] = Json::object();
    for (const std::string& language : line.languages) json["languages"][language] = 1.0;
  }
  for (const std::string& assignment : line.overrides) apply_override(json, assignment);
  const SceneSource source(read_config<ScenesConfig>(json, "scenes"), line.seed);
  write_scenes(source, line.count, line.out, line.tar);
  if (line.json) print_json({{"samples", line.count}, {"folder", line.out}});
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
