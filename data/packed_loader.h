#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/mixture.h"
#include "data/packed_batch.h"
#include "data/sample.h"
#include "data/source_config.h"

namespace pocketvlm {

struct LoaderConfig {
  std::vector<SourceConfig> sources;
  int64_t batch_tokens = 4096;  // tokens of one pack
  int64_t max_tokens = 2048;    // longest sample; longer ones are refused and counted
  int64_t look_ahead = 64;      // samples among which best-fit chooses
  int64_t workers = 2;          // threads that draw, decode, slice and tokenize
  uint64_t seed = 0;            // order of the data

  void visit_fields(auto&& field) {
    field("sources", sources, "mixture of data; weights decide the shares", required());
    field("batch_tokens",
          batch_tokens,
          "tokens of one pack (visual and text)",
          in_range(16, 1 << 24));
    field("max_tokens",
          max_tokens,
          "longest sample; longer ones are refused and counted",
          in_range(8, 1 << 24));
    field("look_ahead",
          look_ahead,
          "samples among which best-fit packing chooses",
          in_range(1, 100000));
    field("workers", workers, "threads that draw, decode, slice and tokenize", in_range(0, 512));
    field("seed", seed, "order of the data");
  }
  void validate(const std::string& path) const;
};

/// Where a loader stands: enough to continue with the same packs, in constant time. It is the same
/// on every rank after equally many packs. `pending`: global positions of samples that were read
/// ahead but not yet packed.
struct LoaderState {
  std::int64_t next_position = 0;
  std::vector<std::int64_t> pending;
  std::int64_t num_samples = 0;  // packed so far
  std::int64_t num_skipped = 0;  // left out so far
  std::string order;  // fingerprint of seed, weights and sizes; empty: not checked on restore

  void visit_fields(auto&& field) {
    field("next_position", next_position, "first global position not yet read", at_least(0));
    field("pending", pending, "global positions read but not yet packed");
    field("num_samples", num_samples, "samples packed so far", at_least(0));
    field("num_skipped", num_skipped, "samples left out so far", at_least(0));
    field("order", order, "fingerprint of what decides the order of the data");
  }
  void validate(const std::string& path) const;
  Json to_json() const;
  static LoaderState from_json(const Json& json, const std::string& where);
};

/// What was left out, and why.
struct SkippedSample {
  std::string source;
  std::string place;
  std::string reason;
};

/// Reads a mixture in an order fixed by the seed alone, encodes samples in worker threads with
/// bounded memory, and packs whole samples by best fit. Neither the number of workers nor their
/// speed changes any pack. Ranks: rank r of n takes packs r, r + n, r + 2n ... of one global
/// sequence.
class PackedLoader {
 public:
  PackedLoader(const LoaderConfig& config,
               const PromptEncoder& encoder,
               int rank = 0,
               int num_ranks = 1);
  /// With sources that are open already, one for each of config.sources (of which only the weight
  /// counts).
  PackedLoader(const LoaderConfig& config,
               std::vector<std::unique_ptr<SampleSource>> sources,
               const PromptEncoder& encoder,
               int rank = 0,
               int num_ranks = 1);
  ~PackedLoader();

  PackedBatch next();         // throws Error when no sample of a source is usable
  LoaderState state() const;  // the state before the next pack
  void restore(const LoaderState& state);
  std::vector<SkippedSample> skipped() const;  // the first 1000 places, each once
  std::int64_t num_skipped() const;
  std::int64_t num_samples() const;  // packed so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Encodes one sample: pure text as text, anything else through the chat template. Throws Error
/// when that is impossible (the number of pictures and marks differ, a piece is missing ...).
EncodedSample encode_sample(const Sample& sample, const PromptEncoder& encoder);

}  // namespace pocketvlm
