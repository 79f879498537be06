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
  std::string folder, pairs, answers, judged, reference, claims;
  std::int64_t round = 0, pairs_shown = 50;  // round 0: that of the folder, else the first
};

/// Adds `rlaif` and its stages.
void add_rlaif_commands(CLI::App& app, CommandLine& line);

}  // namespace pocketvlm
