#include "trainer/same_config.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <sstream>

#include "base/files.h"

namespace pocketvlm {
namespace {

/// Whether it decides how a stage goes on, and not what was. Which matrices are orthogonalized decides what the state holds.
bool may_change(const std::string& field) {
  return field == "steps" || (field.starts_with("optimizer/") && !field.starts_with("optimizer/orthogonalized"));
}

Json at(const Json& json, const std::string& pointer) {
  const Json::json_pointer place(pointer);
  return json.contains(place) ? json.at(place) : Json();
}

/// The folder's config then against this one.
std::vector<ConfigChange> differences(const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks) {
  const std::string path = folder + "/config.json";
  Json now = deciding_fields(config_to_json(config), false);
  Json then = deciding_fields(config_to_json(read_config<StageConfig>(read_json(path), path)), false);
  if (packs_then > 0) {
    // Left as it was, it keeps its meaning: the packs of a step stay what they were, however many ranks there are now.
    PV_CHECK(now["accumulation"] == then["accumulation"] || config.accumulation * ranks == packs_then,
             "{}: was begun with {} packs an optimizer step, which stay; accumulation {} on {} ranks would be {}. Leave "
             "accumulation at {}, or choose another folder",
             folder,
             packs_then,
             config.accumulation,
             ranks,
             config.accumulation * ranks,
             then["accumulation"].get<int64_t>());
    now.erase("accumulation");
    then.erase("accumulation");
  }
  std::vector<ConfigChange> found;
  for (const Json& change : Json::diff(then, now)) {
    const std::string place = change["path"].get<std::string>();
    found.push_back({place.substr(1), at(then, place), at(now, place)});
  }
  return found;
}

std::string text_of(const ConfigChange& change) {
  return fmt::format("{}: {} -> {}", change.field, change.before.dump(), change.after.dump());
}

std::string text_of(const std::vector<ConfigChange>& changes) {
  std::vector<std::string> texts;
  for (const ConfigChange& change : changes) texts.push_back(text_of(change));
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

Json deciding_fields(Json stage, bool changed) {
  for (const char* key : {"threads", "distributed", "device"}) stage.erase(key);  // change last bits only; the saved state warns
  for (const char* key : {"checkpoint_every", "checkpoint_in_background", "recompute_blocks", "peak_tflops", "trace"}) stage.erase(key);
  for (const char* key : {"log_every", "log_samples"}) stage.erase(key);
  stage.erase("guard");  // when to give up
  if (stage.contains("data")) {
    for (const char* key : {"workers", "index_folder", "index_min_mb"}) stage["data"].erase(key);
  }
  // A cache changes last bits, its size none.
  if (stage.contains("feature_cache")) stage["feature_cache"] = stage["feature_cache"].value("megabytes", int64_t{0}) > 0;
  if (!changed) return stage;
  stage.erase("steps");
  if (!stage.contains("optimizer")) return stage;
  const Json orthogonalized = stage["optimizer"].value("orthogonalized", Json::array());
  stage["optimizer"] = {{"orthogonalized", orthogonalized}};
  return stage;
}

std::vector<ConfigChange> accepted_changes(
    const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks, bool changed) {
  const std::vector<ConfigChange> found = differences(config, folder, packs_then, ranks);
  for (const ConfigChange& change : found) {
    PV_CHECK(may_change(change.field),
             "{}: holds results of another configuration ({}); delete the folder, or choose another one",
             folder,
             text_of(found));
  }
  PV_CHECK(found.empty() || changed,
           "{}: was begun with other settings ({}); to go on with these from the last state, add --changed, else choose another folder",
           folder,
           text_of(found));
  return found;
}

void check_same_config(const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks) {
  const std::vector<ConfigChange> found = differences(config, folder, packs_then, ranks);
  PV_CHECK(found.empty(),
           "{}: holds results of another configuration ({}); delete the folder, or choose another one",
           folder,
           text_of(found));
}

void note_changes(const StageConfig& config, const std::string& folder, int64_t step, const std::vector<ConfigChange>& changes) {
  const std::string path = folder + "/changes.jsonl";
  std::string lines;
  if (std::filesystem::exists(path)) {
    std::istringstream before(read_file(path));
    for (std::string text; std::getline(before, text);) {
      Json line = parse_json(text, path);
      line["step"] = std::min(step, line.at("step").get<int64_t>());
      lines += line.dump() + "\n";
    }
  }
  for (const ConfigChange& change : changes) {
    lines += Json{{"step", step}, {"field", change.field}, {"before", change.before}, {"after", change.after}}.dump() + "\n";
  }
  // In this order: a change that is listed and not yet in force is listed again.
  if (!lines.empty()) write_file_atomic(path, lines);
  write_json(folder + "/config.json", config_to_json(config));
}

}  // namespace pocketvlm
