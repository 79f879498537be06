#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// One training or evaluation example before it becomes tokens.
struct Sample {
  std::string id;  // unique in its file; with SampleReader::name_suffix it names the sample in logs
  std::string
      task;  // caption | detailed | vqa | counting | position | ocr | yes_no | chat | text | ...
  std::string language = "en";
  Chat chat;   // turns and images; pure text has one assistant turn and no image
  bool is_video = false;  // the images are the frames of a video; they are read with its settings
  Json truth;  // what is known about the image (scene objects); null when nothing is
};

/// A sample that cannot be used. It is skipped, counted under `reason` (one of a few fixed
/// wordings, so that counts mean something) and listed with its place; `detail` says what exactly
/// is wrong.
class DamagedSample : public Error {
 public:
  DamagedSample(std::string file, std::string place, std::string reason, std::string detail);
  const std::string& file() const { return file_; }
  const std::string& place() const { return place_; }
  const std::string& reason() const { return reason_; }
  const std::string& detail() const { return detail_; }

 private:
  std::string file_, place_, reason_, detail_;
};

/// Where a sample stands, for the errors about it.
struct SamplePlace {
  std::string file;
  std::string place;
  /// Throws DamagedSample.
  [[noreturn]] void damaged(const std::string& reason, const std::string& detail) const;
};

/// Anything that yields samples by position. `at(i)` and `outline(i)` depend on i alone, never on
/// what was read before, so loaders may call them from many threads, in any order, and resume
/// anywhere.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual std::int64_t size() const = 0;  // streams answer kEndless
  /// Throws Error for a damaged sample; the caller skips, counts and lists it.
  virtual Sample at(std::int64_t index) const = 0;
  /// The same sample with outlines instead of its pictures: enough to know its tokens. Throws for
  /// everything that shows without decoding pixels. A source that cannot do better decodes here, too.
  virtual Sample outline(std::int64_t index) const;
  virtual std::string name() const = 0;
  /// Where sample `index` stands in its file, for lists of skipped samples.
  virtual std::string place(std::int64_t index) const { return "sample " + std::to_string(index); }

  /// Which of several files holds sample `index`, counted from 0; nothing when there is only one.
  virtual std::optional<std::int64_t> file_number(std::int64_t /*index*/) const { return std::nullopt; }

  static constexpr std::int64_t kEndless = std::int64_t{1} << 62;
};

}  // namespace pocketvlm
