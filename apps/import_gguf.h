#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `import file.gguf`: a checkpoint whose language model (arch `llama`) and vocabulary are the file's, and whose vision encoder and
/// projector, taken from --model (default: the quickstart preset), have random weights: a start for training them.
void import_gguf(const CommandLine& line);

}  // namespace pocketvlm
