#include "data/source_config.h"

#include <cmath>
#include <utility>

#include "data/concatenated_source.h"
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

namespace {

std::unique_ptr<SampleSource> open_file(const std::string& kind,
                                        const std::string& path,
                                        const DecodeOptions& decode,
                                        const IndexOptions& index) {
  if (kind == "conversations") return std::make_unique<ConversationSource>(path, decode, index);
  if (kind == "tar") return std::make_unique<TarSource>(path, decode, index);
  if (kind == "text") return std::make_unique<TextSource>(path, index);
  fail("source.kind: \"{}\" is not one of scenes, conversations, tar, text", kind);
}

}  // namespace

std::unique_ptr<SampleSource> open_files(const SourceConfig& config, const DecodeOptions& decode, const IndexOptions& index) {
  std::vector<std::unique_ptr<SampleSource>> parts;
  for (const std::string& file : matching_files(config.path)) {
    parts.push_back(open_file(config.kind, file, decode, index));
  }
  if (parts.size() == 1) return std::move(parts.front());
  return std::make_unique<ConcatenatedSource>(config.path, std::move(parts));
}

std::unique_ptr<SampleSource> open_source(const SourceConfig& config, const DecodeOptions& decode, const IndexOptions& index) {
  config.validate("source");
  if (config.kind == "scenes") return std::make_unique<SceneSource>(config.scenes, config.seed);
  std::unique_ptr<SampleSource> source = open_files(config, decode, index);
  PV_CHECK(source->size() > 0, "{}: holds no samples", source->name());
  return source;
}

}  // namespace pocketvlm
