#pragma once

#include "base/json.h"
#include "mobile/session.h"

namespace pocketvlm {

/// One JSON object on standard output. Text that is no UTF-8 is written with U+FFFD.
void print_json(const Json& value);

/// Times, counts and rates of one answer, and the memory it took at most so far.
Json timings_json(const ChatTimings& timings);

}  // namespace pocketvlm
