#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pocketvlm {

/// Which source and which index a global position means.
struct MixturePlace {
  int source;
  std::int64_t index;
};

/// The order of a mixture: a pure function of (weights, sizes, seed, position), so that any
/// position can be restored at once and all ranks agree without talking.
///
/// Each source has a fixed share of every stretch of about 1024 positions, fractions carried over
/// exactly: after p positions a source of share w was drawn w p times, give or take the two samples
/// of rounding plus its part of the current stretch. Within a stretch the order is shuffled. A
/// finite source is walked in a fresh pseudo-random order each epoch; an endless one is counted
/// through.
class Mixture {
 public:
  /// `weights`: at least one above 0; `sizes`: SampleSource::size() of each. Throws Error
  /// otherwise.
  Mixture(const std::vector<double>& weights, std::vector<std::int64_t> sizes, std::uint64_t seed);

  /// O(sources) plus, when the stretch changes, one shuffle of 1024 entries. Not for several
  /// threads at once: it keeps the current stretch.
  MixturePlace place(std::int64_t position);

  /// Changes when seed, shares or sizes change: two mixtures with one fingerprint have one order.
  std::string fingerprint() const;

 private:
  std::int64_t drawn_before(std::size_t source, std::int64_t block) const;
  std::int64_t block_begin(std::int64_t block) const;
  void load_block(std::int64_t block);

  std::vector<std::uint64_t> shares_;  // of 2^32
  std::vector<std::uint64_t> phases_;  // of 2^32: small sources do not all come in the same stretch
  std::vector<std::int64_t> sizes_;
  std::uint64_t seed_;
  std::int64_t block_ = -1;           // the stretch that draws_ describes
  std::int64_t begin_ = 0, end_ = 0;  // its positions
  struct Draw {
    int source;
    std::int64_t count;  // samples drawn from this source before
  };
  std::vector<Draw> draws_;
};

}  // namespace pocketvlm
