#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/loader_config.h"
#include "data/pack_planner.h"
#include "data/packed_batch.h"
#include "data/sample.h"

namespace pocketvlm {

/// Reads a mixture in an order fixed by the seed alone and packs whole samples by best fit. Neither
/// the number of workers nor their speed changes any pack. Ranks: rank r of n takes packs r, r + n,
/// r + 2n ... of one global sequence. Every rank measures all samples, which decides the packs, and
/// decodes the pictures of its own, one pack ahead, in worker threads with bounded memory.
///
/// A picture that turns out damaged only when it is decoded was measured by all ranks but is seen by
/// one: the pack goes without that sample, and is empty when it loses all of them. Other packs stay
/// as they are.
///
/// Where a step takes another number of packs than a multiple of the ranks, the last round of each step is short: rank r takes
/// packs r, r + n, ... below `packs_per_step` of every step, and ranks without a pack in a round get an empty one. The packs of
/// every step are then the same whatever the number of ranks.
class PackedLoader {
 public:
  PackedLoader(const LoaderConfig& config,
               const PromptEncoder& encoder,
               int rank = 0,
               int num_ranks = 1,
               std::int64_t packs_per_step = 0);  // 0: a multiple of the ranks
  /// With sources that are open already, one for each of config.sources (of which only the weight
  /// counts).
  PackedLoader(const LoaderConfig& config,
               std::vector<std::unique_ptr<SampleSource>> sources,
               const PromptEncoder& encoder,
               int rank = 0,
               int num_ranks = 1,
               std::int64_t packs_per_step = 0);
  ~PackedLoader();

  PackedBatch next();         // throws Error when no sample of a source is usable
  LoaderState state() const;  // the state before the next pack
  void restore(const LoaderState& state);  // at the beginning of a step

  /// Those that no rank can use and those whose pictures this rank could not decode: the first 1000
  /// places, each once.
  const std::vector<SkippedSample>& skipped() const;
  const std::vector<SkippedSample>& damaged() const;  // the latter alone
  std::int64_t num_skipped() const;
  std::int64_t num_damaged() const;  // of these, by this rank since it was made or restored
  std::int64_t num_samples() const;  // packed so far, without the damaged ones

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pocketvlm
