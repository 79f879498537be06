#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "data/scenes/scene_source.h"

namespace pocketvlm {

/// The right answer to a claim's question, from what is known about the picture (Sample::truth of
/// the embedded world, or an instruction's); nothing when the truth does not say: other forms of questions, things that are
/// no class of the world, places and numbers of objects without a box, and, where the truth lists "absent" names, things
/// that it names neither as there nor as absent. It measures the judge and never judges. Questions in the words of another language are
/// answered where the vocabulary has its names.
///   width, height   of the picture, pixels: places are cells of a 3 x 3 grid over it
std::optional<bool> truth_of(const std::string& question,
                             const Json& truth,
                             int width,
                             int height,
                             const ObjectVocabulary& vocabulary);

/// Checks the form of a truth that people wrote: {"objects": [{"name", "box"?: [x, y, width, height]}], "absent"?: [names],
/// "sign"?: text or null}. Throws Error naming `where`.
void check_truth(const Json& truth, const std::string& where);

}  // namespace pocketvlm
