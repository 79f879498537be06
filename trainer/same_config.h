#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "trainer/stage_config.h"

namespace pocketvlm {

/// A field of a stage's config that is another one now.
struct ConfigChange {
  std::string field;  // "optimizer/learning_rate"
  Json before, after;
};

/// What differs between the config with which `folder` was begun and this one. What cannot change a result beyond last bits (workers,
/// ranks, logging) or only says when to give up (guard) may always be another; of the rest, optimizer and steps may be, if `changed`
/// says that it is meant, for they decide how a stage goes on and not what was. Returns these.
/// Throws Error when anything else differs, or these without `changed`, naming every field.
///   packs_then   packs of all ranks in an optimizer step of the run that wrote the folder; 0: unknown
std::vector<ConfigChange> accepted_changes(
    const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks, bool changed);

/// The same for a folder that is done: throws Error when anything differs.
void check_same_config(const StageConfig& config, const std::string& folder, int64_t packs_then, int ranks);

/// Writes `config` into <folder>/config.json, and the changes, made after `step`, into <folder>/changes.jsonl. Changes of later steps
/// that are listed there already hold from `step` on, to which the stage fell back.
void note_changes(const StageConfig& config, const std::string& folder, int64_t step, const std::vector<ConfigChange>& changes);

/// A stage's config without the fields that accepted_changes never asks about; with `changed` also without those it then accepts.
Json deciding_fields(Json stage, bool changed);

}  // namespace pocketvlm
