#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/data_index.h"
#include "data/preprocess/image.h"
#include "data/sample.h"
#include "data/scenes/scene_config.h"

namespace pocketvlm {

/// One part of a mixture.
struct SourceConfig {
  std::string kind = "scenes";
  std::string path;
  double weight = 1.0;
  uint64_t seed = 0;
  ScenesConfig scenes;

  void visit_fields(auto&& field) {
    field("kind",
          kind,
          "scenes: the embedded world, streamed; conversations: LLaVA / MiniCPM-V JSON or JSONL; "
          "tar: WebDataset shard; "
          "text: one document a line, no pictures",
          one_of({"scenes", "conversations", "tar", "text"}));
    field("path", path, "file of conversations, tar or text; image paths are relative to it");
    field("weight", weight, "share of the mixture, relative to the other sources", at_least(0));
    field("seed", seed, "scenes: which stream; training and held-out data use different seeds");
    field("scenes", scenes, "scenes: what they hold");
  }
  void validate(const std::string& path) const;
};

/// Opens the file of a source, or all that its pattern matches. Throws Error naming the file.
std::unique_ptr<SampleSource> open_files(const SourceConfig& config, const DecodeOptions& decode, const IndexOptions& index = {});

/// Opens a source, which must hold samples. Throws Error naming file and field. `decode` says which pictures are too large
/// and whether EXIF orientation counts; it comes from the model's image config. `index` says where indexes of its files are kept.
std::unique_ptr<SampleSource> open_source(const SourceConfig& config,
                                          const DecodeOptions& decode = {},
                                          const IndexOptions& index = {});

}  // namespace pocketvlm
