#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/json.h"
#include "data/loader_config.h"
#include "data/mixture.h"
#include "data/prefetcher.h"
#include "data/sample_reader.h"

namespace pocketvlm {

/// Where a loader stands: enough to continue with the same packs, in constant time. It is the same
/// on every rank after equally many packs. `pending`: global positions of samples that were measured
/// but not yet packed.
struct LoaderState {
  std::int64_t next_position = 0;
  std::vector<std::int64_t> pending;
  std::vector<std::int64_t> pieces;  // of split texts, for each of `pending`; empty: all 0
  std::int64_t num_samples = 0;  // packed so far
  std::int64_t num_skipped = 0;  // left out so far
  std::int64_t num_split = 0;    // texts so far that became several samples
  std::string order;  // fingerprint of seed, weights and sizes; empty: not checked on restore

  void visit_fields(auto&& field) {
    field("next_position", next_position, "first global position not yet read", at_least(0));
    field("pending", pending, "global positions measured but not yet packed");
    field("pieces", pieces, "which piece of a split text each pending one is; empty: the first");
    field("num_samples", num_samples, "samples packed so far", at_least(0));
    field("num_skipped", num_skipped, "samples left out so far", at_least(0));
    field("num_split", num_split, "texts split so far", at_least(0));
    field("order", order, "fingerprint of what decides the order of the data");
  }
  void validate(const std::string& path) const;
  Json to_json() const;
  static LoaderState from_json(const Json& json, const std::string& where);
};

/// A source with so many bad samples in a row is given up.
inline constexpr std::int64_t kHopeless = 1000;

/// Forms the one global sequence of packs from measured samples: which samples, in which order. It is
/// a function of seed and data alone; all ranks plan the same packs and each reads its own.
class PackPlanner {
 public:
  /// `packs_ahead`: packs whose samples are measured before they are asked for.
  PackPlanner(const LoaderConfig& config,
              const SampleReader::Sources& sources,
              const SampleReader& reader,
              WorkerPool& pool,
              std::int64_t packs_ahead);

  /// The samples of the next pack, without patches. Throws Error when no sample of a source is
  /// usable.
  std::vector<SampleOutcome> next_pack();
  /// What was refused since the last call.
  std::vector<SkippedSample> take_skipped() { return std::exchange(skipped_, {}); }

  LoaderState state() const;  // before the next pack
  void restore(const LoaderState& state);

 private:
  struct Job {
    std::int64_t position;
    MixturePlace place;
  };
  Job next_job();
  std::size_t samples_ahead() const;
  void fill_window();
  void append_to_window(SampleOutcome outcome, bool again);
  void note_skipped(const SampleOutcome& outcome);
  std::int64_t take(std::size_t place, std::vector<SampleOutcome>& pack);

  const LoaderConfig& config_;
  const SampleReader::Sources& sources_;
  std::int64_t packs_ahead_;
  Mixture mixture_;

  // Measuring: positions become jobs in order; a restored planner first measures its pending
  // positions again.
  std::deque<std::int64_t> to_measure_again_;
  std::int64_t next_unmeasured_ = 0;
  Prefetcher<Job, SampleOutcome> measured_;

  // Packing: what was taken from the jobs, in order.
  std::deque<SampleOutcome> window_;
  struct Place {
    std::int64_t position, piece;
  };
  std::deque<Place> restored_;  // pending ones that are not in the window again yet
  std::int64_t next_position_ = 0;     // the first position that never was in the window

  std::int64_t num_samples_ = 0;
  std::int64_t num_skipped_ = 0;
  std::int64_t num_split_ = 0;
  std::vector<std::int64_t> failures_;  // of each source, in a row
  std::vector<SkippedSample> skipped_;
  std::int64_t usable_samples_ = 0, usable_tokens_ = 0;  // of this process, for the mean length before splitting
};

}  // namespace pocketvlm
