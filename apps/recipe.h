#pragma once

#include <string>
#include <vector>

#include "apps/recipe_config.h"
#include "trainer/distributed/communicator.h"

namespace pocketvlm {

/// Runs a whole recipe in <run_folder>/<name>; whatever is finished there already is not done again, and what was
/// interrupted continues and ends with the same bits.
///   config.json                      the effective recipe
///   tokenizer/tokenizer.model        trained on the recipe's own corpus
///   stages/NN-<stage>/               see trainer/stage.h
///   gallery/images/*.png             held-out pictures;  gallery/<stage>.json: their answers after each stage and on the phone
///   evaluation/<stage>.json          figures on held-out pictures
///   alignment/                       see rlaif/loop.h
///   export/                          GGUF files, parity-<type>.json
///   summary.json, report.html        every figure, and the page worth looking at
/// All ranks work on stages, alignment and evaluations; rank 0 does the rest (tokenizer, gallery, exports, report) while the others
/// wait for it. They must see one folder. Collective.
/// Throws CheckFailed when the parity gate refuses an export.
///   changed   optimizer and steps of stages that are not done may be others than when the run was begun (trainer/same_config.h)
void run_recipe(const RecipeConfig& recipe, bool resume, bool changed, Communicator& ranks);

}  // namespace pocketvlm
