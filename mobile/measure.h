#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "mobile/session.h"

namespace pocketvlm {

/// How fast a session is, measured with random tokens and a noise picture: speed does not depend on
/// what they show.
struct Speeds {
  double vision_ms_per_slice = 0;  // 0: the session has no vision file
  double prefill_tps = 0;          // tokens a second
  double decode_tps = 0;
};

/// Encodes one slice, runs `prompt_tokens` at once, then `gen_tokens` one by one. A token is run
/// first, untimed, so that the file's pages are in memory. `seed` chooses picture and tokens; take
/// another one each time, since slices seen before are not encoded again. The session's KV cache is
/// overwritten.
Speeds measure_speeds(Session& session,
                      std::int64_t prompt_tokens,
                      std::int64_t gen_tokens,
                      std::uint64_t seed);

/// Wall time of one call.
double seconds_of(const std::function<void()>& work);

/// The middle one, or the mean of the middle two. `values` must not be empty.
double median(std::vector<double> values);

}  // namespace pocketvlm
