#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pocketvlm {

/// The subset of `lengths` whose sum comes closest to `room` without exceeding it, as ascending
/// places; among equal sums the one that needs only earlier places. Exact (subset sum) as long as
/// places x room stays below some millions; beyond that the last places are not considered.
std::vector<std::size_t> best_fit(const std::vector<std::int64_t>& lengths, std::int64_t room);

}  // namespace pocketvlm
