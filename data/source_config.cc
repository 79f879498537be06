#include "data/source_config.h"

#include <cmath>

#include "data/conversations.h"
#include "data/scenes/scene_source.h"
#include "data/tar.h"

namespace pocketvlm {

void SourceConfig::validate(const std::string& where) const {
  PV_CHECK(std::isfinite(weight), "{}.weight: {} is not a finite number", where, weight);
  if (kind == "scenes") {
    PV_CHECK(
        path.empty(),
        "{}.path: scenes are drawn, not read; remove the path or set kind to conversations or tar",
        where);
    return;
  }
  PV_CHECK(!path.empty(), "{}.path: kind \"{}\" needs a file", where, kind);
  PV_CHECK(seed == 0,
           "{}.seed: only scenes have a seed of their own; the loader's seed orders this source",
           where);
  PV_CHECK(config_to_json(scenes) == config_to_json(ScenesConfig{}),
           "{}.scenes: has no effect on a source of kind \"{}\"; remove it",
           where,
           kind);
}

std::unique_ptr<SampleSource> open_source(const SourceConfig& config, const DecodeOptions& decode) {
  config.validate("source");
  std::unique_ptr<SampleSource> source;
  if (config.kind == "scenes") {
    source = std::make_unique<SceneSource>(config.scenes, config.seed);
  } else if (config.kind == "conversations") {
    source = std::make_unique<ConversationSource>(config.path, decode);
  } else if (config.kind == "tar") {
    source = std::make_unique<TarSource>(config.path, decode);
  } else if (config.kind == "text") {
    source = std::make_unique<TextSource>(config.path);
  } else {
    fail("source.kind: \"{}\" is not one of scenes, conversations, tar, text", config.kind);
  }
  PV_CHECK(source->size() > 0, "{}: holds no samples", source->name());
  return source;
}

}  // namespace pocketvlm
