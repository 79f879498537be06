#include "trainer/same_config.h"

#include "base/json.h"

namespace pocketvlm {
namespace {

/// The configuration without what cannot change the result.
Json deciding_fields(const StageConfig& config) {
  Json json = config_to_json(config);
  for (const char* key : {"threads", "distributed"}) json.erase(key);  // change last bits only; the saved state warns
  for (const char* key : {"checkpoint_every", "checkpoint_in_background", "recompute_blocks", "peak_tflops", "trace"}) json.erase(key);
  json["data"].erase("workers");
  json["feature_cache"] = config.feature_cache.megabytes > 0;  // a cache changes last bits, its size none
  return json;
}

}  // namespace

void check_same_config(const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks) {
  const std::string path = folder + "/config.json";
  Json now = deciding_fields(config);
  Json then = deciding_fields(read_config<StageConfig>(read_json(path), path));
  if (packs_then > 0) {
    PV_CHECK(config.accumulation * ranks == packs_then,
             "{}: was begun with {} packs an optimizer step; {} on {} ranks are {}. Set accumulation so that "
             "accumulation times ranks is {}, or choose another folder",
             folder,
             packs_then,
             config.accumulation,
             ranks,
             config.accumulation * ranks,
             packs_then);
    now.erase("accumulation");
    then.erase("accumulation");
  }
  const Json changes = Json::diff(then, now);
  if (changes.empty()) return;
  fail(
      "{}: holds results of another configuration (\"{}\" differs); delete the folder, or choose "
      "another one",
      folder,
      changes[0]["path"].get<std::string>().substr(1));
}

}  // namespace pocketvlm
