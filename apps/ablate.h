#pragma once

#include <string>

#include "apps/command_line.h"

namespace pocketvlm {

/// `pocketvlm ablate FILE --out DIR`: runs every variant of an ablation, collects its figures and writes DIR/table.json, table.md and
/// table.html. A variant's run has the folder DIR/NAME (DIR/NAME-seedN where there are several seeds) with output.txt, log.txt and,
/// when it is finished, result.json; finished ones are not run again, a killed one is run again with `resume` added. Tables are
/// written after each run. Throws Error naming the run whose command failed, with the end of its log.
void ablate(const CommandLine& line);

}  // namespace pocketvlm
