#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// Whether an import is of a kind that only the engine can read (GGUF, whose vision side gets random weights).
bool needs_engine(const CommandLine& line);

/// `import` of a released folder, `save-hf`, and `inspect checkpoint`.
void import_release(const CommandLine& line);
void save_release(const CommandLine& line);
void inspect_checkpoint(const CommandLine& line);

}  // namespace pocketvlm
