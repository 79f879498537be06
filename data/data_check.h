#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/loader_config.h"
#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// What `pocketvlm data check` reports; `to_json` is the contract's form.
struct DataCheckReport {
  std::int64_t samples = 0;
  std::int64_t kept = 0;
  std::int64_t skipped() const { return samples - kept; }
  std::map<std::string, std::int64_t> reasons;
  struct Listed {
    std::string file, place, reason;
    std::string detail;  // what exactly is wrong
  };
  std::vector<Listed> listed;      // in the order of sources and samples; the first 100,000
  std::int64_t unlisted = 0;       // damaged samples beyond those
  std::int64_t duplicate_ids = 0;  // samples whose id an earlier one has; kept, for they do no harm
  std::vector<std::int32_t> tokens;  // of each sample that is kept, in the same order; empty without an encoder
  double seconds = 0;
  std::int64_t images = 0;         // decoded
  std::int64_t endless_sources = 0;  // of a stage: not read
  Json to_json() const;
};

/// Reads every sample of a file (.json, .jsonl, .tar, .txt) or of all files that a pattern matches, conversations and images
/// decoded; needs no model. A damaged sample is counted and listed; only an unreadable file is an Error. With an encoder, samples
/// are also made into tokens as a stage would, which counts their lengths and finds those that cannot be encoded.
DataCheckReport check_data(const std::string& path,
                           int threads,
                           const PromptEncoder* encoder = nullptr);

/// The same for the sources of a stage, each sample once: skipped is what the stage's loader skips. Endless sources (scenes) have
/// nothing to check; weights, seed and packing make no difference.
DataCheckReport check_sources(const LoaderConfig& config, int threads, const PromptEncoder& encoder);

/// Figures of a list of lengths: {"samples", "sum", "mean", "median", "p95", "p99", "longest"}.
Json length_figures(std::vector<std::int32_t> lengths);

}  // namespace pocketvlm
