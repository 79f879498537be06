#include "apps/mobile_output.h"

#include <cstdio>

#include "base/files.h"

namespace pocketvlm {

void print_json(const Json& value) {
  std::printf("%s\n", value.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

Json timings_json(const ChatTimings& timings) {
  const auto rate = [](std::int64_t tokens, double ms) {
    return ms > 0.0 ? Json(static_cast<double>(tokens) * 1000.0 / ms) : Json(nullptr);
  };
  return {{"load_ms", timings.load_ms},
          {"image_ms", timings.image_ms},
          {"vision_ms", timings.vision_ms},
          {"slices", timings.slices},
          {"prompt_tokens", timings.prompt_tokens},
          {"cached_tokens", timings.cached_tokens},
          {"prefill_ms", timings.prefill_ms},
          {"prefill_tps", rate(timings.prompt_tokens - timings.cached_tokens, timings.prefill_ms)},
          {"generated_tokens", timings.generated_tokens},
          {"decode_ms", timings.decode_ms},
          {"decode_tps", rate(timings.generated_tokens, timings.decode_ms)},
          {"peak_rss_mib", peak_rss_mib()}};
}

}  // namespace pocketvlm
