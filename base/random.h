#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace pocketvlm {

/// A small, portable random stream (xoshiro256**, seeded by splitmix64): the same keys give the same
/// numbers on every machine and compiler, which std::*_distribution do not promise.
/// Streams are addressed by keys, e.g. Random({seed, kCaptionStream, sample_index}), so that no
/// result depends on the order in which samples are made. The state is copyable: copy it to save it.
class Random {
 public:
  explicit Random(std::initializer_list<std::uint64_t> keys);

  std::uint64_t next();                               // uniform 64 bits
  double uniform();                                   // [0, 1)
  double uniform(double low, double high);            // [low, high)
  std::int64_t below(std::int64_t n);                 // [0, n), unbiased; n > 0
  std::int64_t between(std::int64_t low, std::int64_t high);  // [low, high], both included
  bool chance(double probability);
  double normal();                                    // mean 0, variance 1

  template <typename T>
  const T& pick(const std::vector<T>& items) {
    return items[static_cast<std::size_t>(below(static_cast<std::int64_t>(items.size())))];
  }

  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) {
      using std::swap;
      swap(items[i - 1], items[static_cast<std::size_t>(below(static_cast<std::int64_t>(i)))]);
    }
  }

 private:
  std::uint64_t state_[4];
};

/// Mixes keys into one 64-bit value; equal keys give equal values, everywhere.
std::uint64_t mix_keys(std::initializer_list<std::uint64_t> keys);

/// Position `index` of a pseudo-random permutation of [0, n), computed in O(1): the global order of
/// an epoch needs no table, and any position can be restored at once.
std::int64_t permuted_index(std::int64_t index, std::int64_t n, std::uint64_t seed);

}  // namespace pocketvlm
