#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `inspect forward`: one forward pass of a checkpoint over a prompt (or given ids) and pictures. Writes, as safetensors:
///
///   input_ids   [tokens] int64, as they were given
///   pixels.k    [patches, 3 * patch * patch], rows of normalised pixels of slice k
///   vision.k    [patches, vision_hidden], what the projector reads of slice k
///   projector   [slices, queries, hidden]
///   logits      [tokens, vocab]
///
/// all float32 but the ids. Given ids mark visual tokens by -200, or by the filler id of the model's vocabulary; without a
/// tokenizer in the folder the filler is the id that stands exactly where the pictures' visual tokens fit.
void inspect_forward(const CommandLine& line);

}  // namespace pocketvlm
