#pragma once

#include <string>

#include "data/data_check.h"

namespace pocketvlm {

/// The report of `data check` as a page of its own: what is kept, what is skipped and why, and how long the samples are in tokens.
std::string data_check_page(const std::string& path, const DataCheckReport& report);

}  // namespace pocketvlm
