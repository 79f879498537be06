#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// One training or evaluation example before it becomes tokens.
struct Sample {
  std::string id;      // unique in its source; names the sample in logs and lists of skipped ones
  std::string task;    // caption | detailed | vqa | counting | position | ocr | yes_no | chat | text | ...
  std::string language = "en";
  Chat chat;           // turns and images; pure text has one assistant turn and no image
  Json truth;          // what is known about the image (scene objects); null when nothing is
};

/// Anything that yields samples by position. `at(i)` depends on i alone, never on what was read
/// before, so loaders may call it from many threads, in any order, and resume anywhere.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual std::int64_t size() const = 0;  // streams answer kEndless
  /// Throws Error for a damaged sample; the caller skips, counts and lists it.
  virtual Sample at(std::int64_t index) const = 0;
  virtual std::string name() const = 0;

  static constexpr std::int64_t kEndless = std::int64_t{1} << 62;
};

}  // namespace pocketvlm
