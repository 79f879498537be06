#include "data/loader_config.h"

#include <algorithm>

namespace pocketvlm {

void LoaderConfig::validate(const std::string& path) const {
  PV_CHECK(!sources.empty(), "{}.sources: is empty; name at least one source", path);
  PV_CHECK(std::any_of(sources.begin(),
                       sources.end(),
                       [](const SourceConfig& source) { return source.weight > 0; }),
           "{}.sources: every weight is 0; give one source a weight above 0",
           path);
  PV_CHECK(max_tokens <= batch_tokens,
           "{}.max_tokens: {} exceeds batch_tokens = {}; a sample is never split over packs",
           path,
           max_tokens,
           batch_tokens);
}

}  // namespace pocketvlm
