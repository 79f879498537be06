#include "data/sample.h"

#include <utility>

namespace pocketvlm {

DamagedSample::DamagedSample(std::string file,
                             std::string place,
                             std::string reason,
                             std::string detail)
    : Error(fmt::format("{}: {}: {}: {}", file, place, reason, detail)),
      file_(std::move(file)),
      place_(std::move(place)),
      reason_(std::move(reason)),
      detail_(std::move(detail)) {}

void SamplePlace::damaged(const std::string& reason, const std::string& detail) const {
  throw DamagedSample(file, place, reason, detail);
}

}  // namespace pocketvlm
