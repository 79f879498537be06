#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader_config.h"
#include "data/mixture.h"
#include "data/packed_batch.h"
#include "data/sample.h"

namespace pocketvlm {

/// What was left out, and why.
struct SkippedSample {
  std::string source;  // its file; of several sources of one name with the number, as in "scenes@1"
  std::string place;
  std::string reason;  // kind and details
  std::string kind;    // one of a few fixed wordings, to count under
};

/// What became of one global position of a mixture.
struct SampleOutcome {
  std::int64_t position = 0;
  MixturePlace place{0, 0};
  std::int64_t piece = 0;  // of a split text
  EncodedSample sample;
  std::optional<SkippedSample> skipped;
  std::int64_t images = 0;  // that the sample has
};

/// Encodes one sample: pure text as text, anything else through the chat template. Throws Error
/// when that is impossible (the number of pictures and marks differ, a piece is missing ...).
EncodedSample encode_sample(const Sample& sample, const PromptEncoder& encoder);

/// The picture settings that a sample is read with: those of `encoder`, or those for videos.
ImageConfig image_settings(const Sample& sample, const PromptEncoder& encoder);

/// Turns the samples of a mixture into tokens and patches, in two steps of very different price. For
/// several threads at once. What is wrong with a sample is said in its outcome; anything else that
/// goes wrong is thrown.
class SampleReader {
 public:
  using Sources = std::vector<std::unique_ptr<SampleSource>>;

  SampleReader(const Sources& sources, const PromptEncoder& encoder, const LoaderConfig& config)
      : sources_(sources), encoder_(encoder), config_(config) {}

  /// Everything but the patches: a few header bytes of each picture decide its tokens. What can be
  /// refused without decoding pixels is refused here, so that all ranks agree on it. A long text that
  /// is to be split comes whole.
  SampleOutcome measure(std::int64_t position, MixturePlace place) const;

  /// What makes the id of a sample unique among all sources: "@1" of the second of several, "@1.3" in its fourth file, "" of a single file.
  std::string name_suffix(MixturePlace place) const;

  /// Decodes (or draws), slices and normalises the pictures of a measured sample. One that turns out
  /// damaged is skipped.
  SampleOutcome read(SampleOutcome measured) const;

 private:
  void note_damage(SampleOutcome& outcome, const std::function<void()>& action) const;

  const Sources& sources_;
  const PromptEncoder& encoder_;
  const LoaderConfig& config_;
};

}  // namespace pocketvlm
