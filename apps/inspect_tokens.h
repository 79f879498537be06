#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `inspect tokens`: ids and pieces of a text; or, with --conversation or --prompt, the whole token layout of a chat under a model's
/// template: markers, text, visual tokens, and what is learned.
void inspect_tokens(const CommandLine& line);

}  // namespace pocketvlm
