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

Sample SampleSource::outline(std::int64_t index) const {
  Sample sample = at(index);
  for (Image& image : sample.chat.images) image = Image::outline(image.width, image.height);
  return sample;
}

}  // namespace pocketvlm
