#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `data rewrite`: captions become questions and answers, by a checkpoint or a server.
void data_rewrite(const CommandLine& line);

}  // namespace pocketvlm
