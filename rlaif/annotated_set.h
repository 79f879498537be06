#pragma once

#include <string>

#include "base/json.h"

namespace pocketvlm {

/// Hallucination figures of answers to a user's own annotated pictures, from one JSON file:
///   {"objects": {"dog": ["puppy", ...], ...},                     what can be mentioned, with its synonyms; or a file (beside the set)
///                                                                  that holds such an object, or CHAIR's lines "dog, puppy, ..."
///    "not_beside": {"seat": ["toilet"], ...},                      words that do not count in answers that name one of these objects
///    "descriptions": [{"id", "answer", "objects": ["dog"], "targets"?: ["cat"]}, ...],   what is in each picture, and what models
///                                                                  like to invent about it
///    "questions": [{"id", "answer", "truth": "yes" | "no", "kind"?: "existence"}, ...]}  both lists may be left out
/// Returns {"chair": {...}, "object_halbench": {...}, "amber": {"generative", "discriminative", "score"}, "pope": {...},
/// "kinds": {kind: AMBER figures}}. Plurals of English words count; of what stands in several words ("hot dog", "baby elephant") the
/// longest counts alone. Words of other languages that put spaces between them may stand there, their plurals as synonyms. "score" is the mean of 1 - CHAIR and F1. Throws Error naming file, place and cure.
Json score_annotated_set(const std::string& path);

}  // namespace pocketvlm
