#pragma once

#include <string>

namespace pocketvlm {

/// Writes <run_folder>/report.html from what a run left there (apps/recipe.h lists the files): one self-contained page with the
/// stage diagram, loss curves, the gallery, hallucination figures, the loop's pairs, phone speeds and file sizes. Parts that a run
/// does not have (no alignment, no export) are left out. Needs no LibTorch.
void write_report(const std::string& run_folder);

}  // namespace pocketvlm
