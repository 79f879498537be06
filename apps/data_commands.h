#pragma once

#include "apps/command_line.h"

namespace pocketvlm {

/// `data check`, `data scenes`, `data ocr`.
void data_check(const CommandLine& line);
void data_scenes(const CommandLine& line);
void data_ocr(const CommandLine& line);

}  // namespace pocketvlm
