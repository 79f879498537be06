#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"

namespace pocketvlm {

/// The ranks of a job as the stages see them; free of MPI and LibTorch. All of them call the same functions in the same
/// order; every rank holds the same rows after each, and the first alone writes files.
struct WorkingRanks {
  int rank = 0, size = 1;
  int workers = 1;  // the first so many take part of the work; the others hear of the results
  std::function<std::vector<std::string>(const std::string&)> gather = {};  // one text of every rank, in their order

  bool is_first() const { return rank == 0; }
  /// The same ranks, of which the first alone works: what a server does is asked for by one client, which keeps to the
  /// server's limits.
  WorkingRanks with_one_worker() const;
};

/// What the first rank says, on every rank; only there `say` is called.
Json told_by_first(const WorkingRanks& ranks, const std::function<Json()>& say);

/// The rows of all ranks, one rank after the other, as a file gives them back: bytes that are no UTF-8 replaced.
std::vector<Json> gather_rows(const WorkingRanks& ranks, const std::vector<Json>& own);

/// Items are worked on by whole groups of `batch`, numbered from item 0, whatever the number of ranks: in a turn the next
/// groups behind `begin`, one a worker. What a group is decoded and computed with does not depend on the ranks, so neither
/// do the bits of its results, and a job that was killed may go on with any number of ranks.
struct WorkTurn {
  std::size_t own_begin = 0, own_end = 0;  // of this rank
  std::size_t end = 0;                     // of all
};
WorkTurn turn_of(const WorkingRanks& ranks, std::size_t begin, std::size_t count, std::size_t batch);

}  // namespace pocketvlm
