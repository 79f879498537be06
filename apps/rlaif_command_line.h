#pragma once

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace pocketvlm {

struct CommandLine;

/// What only `pocketvlm rlaif ...` is told.
struct RlaifOptions {
  std::string folder, pairs, answers, judged, reference;
  std::int64_t round = 1, pairs_shown = 50;
};

/// Adds `rlaif` and its stages.
void add_rlaif_commands(CLI::App& app, CommandLine& line);

}  // namespace pocketvlm
