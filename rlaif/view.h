#pragma once

#include <cstdint>
#include <string>

#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// One self-contained HTML page to read a round's pairs: the picture, what was asked, both answers, and their claims coloured by
/// the judge's verdict, each beside the truth where that is known; the round's figures and odd cases above.
///   folder   of a round (rlaif/round.h), as far as it has come; config.json and round.json there say where its pictures are
///   count    pairs shown, at most; prompts without a pair are not shown
std::string view_page(const std::string& folder, std::int64_t count);

}  // namespace pocketvlm
