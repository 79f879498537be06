#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "data/preprocess/prompt.h"
#include "mobile/session.h"
#include "model/vision_language_model.h"

namespace pocketvlm {

/// How far the residual stream behind one block is from the trainer's: the mean over its rows of |phone - trainer| / |trainer|.
struct BlockError {
  std::string block;  // as the file's tensors are called: "v.blk.3", "blk.0"; "projector" and "output" for what follows the blocks
  double error = 0;
};

/// Runs the prompt's pictures on both sides: one entry for each vision block, in order, and "projector" (the visual tokens).
std::vector<BlockError> vision_block_errors(VisionLanguageModel& trainer, Session& phone, const EncodedChat& prompt);

/// Runs the prompt through both decoders, given the trainer's visual tokens: one entry for each block and "output" (the logits).
std::vector<BlockError> language_block_errors(VisionLanguageModel& trainer, Session& phone, const EncodedChat& prompt);

/// What a sound file of this type stays below behind every block.
double max_block_error(const std::string& type);

/// Where the two part: the first block beyond the bound or, where all are within, the one that adds most.
///   {"layer", "relative_error", "bound", "blocks": {name: error, ...}}
Json differing_block(const std::vector<BlockError>& errors, double bound);

}  // namespace pocketvlm
