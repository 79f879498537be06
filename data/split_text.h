#pragma once

#include <cstdint>
#include <vector>

#include "data/packed_batch.h"

namespace pocketvlm {

/// A text as samples of `max_tokens`, the last two of which share what is left, so that none is
/// shorter than half. Together they hold every token once and teach every target once: the last token
/// of a piece is to predict the first of the next. A text that is short enough stays as it is.
std::vector<EncodedSample> split_text(EncodedSample text, std::int64_t max_tokens);

}  // namespace pocketvlm
