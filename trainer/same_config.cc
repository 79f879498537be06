#include "trainer/same_config.h"

#include "base/json.h"

namespace pocketvlm {
namespace {

/// The configuration without what cannot change the result.
Json deciding_fields(const StageConfig& config) {
  Json json = config_to_json(config);
  for (const char* key : {"threads", "distributed"}) json.erase(key);  // change last bits only; the saved state warns
  for (const char* key : {"checkpoint_every", "checkpoint_in_background", "recompute_blocks", "peak_tflops", "trace", "log_samples"}) json.erase(key);
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
  const Json changes = Json::diff(then, now);
  if (changes.empty()) return;
  fail(
      "{}: holds results of another configuration (\"{}\" differs); delete the folder, or choose "
      "another one",
      folder,
      changes[0]["path"].get<std::string>().substr(1));
}

}  // namespace pocketvlm
