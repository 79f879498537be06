#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// One self-contained HTML page to read a round's pairs: the picture, what was asked, both answers, and their claims coloured by
/// the judge's verdict, each beside the truth where that is known; the round's figures and odd cases above.
///   folder   of a round (rlaif/round.h), as far as it has come; config.json and round.json there say where its pictures are
///   count    pairs shown, at most; prompts without a pair are not shown
/// For the folder of a loop: its rounds with the figures of what they chose, and links to their pages, which are
/// view.html in their folders.
std::string view_page(const std::string& folder, std::int64_t count);

/// The folders round-1, round-2 ... of a loop, relative to its own; none for the folder of a round.
std::vector<std::string> rounds_of_loop(const std::string& folder);

}  // namespace pocketvlm
